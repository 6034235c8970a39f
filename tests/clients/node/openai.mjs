// The openai package for Node: one scenario a run, told as one line of JSON.
//   BASE_URL=http://127.0.0.1:3030/v1 OTHER_URL=… node openai.mjs create
import OpenAI from 'openai';
import { zodTextFormat } from 'openai/helpers/zod';
import { z } from 'zod';

const client = new OpenAI({ baseURL: process.env.BASE_URL, apiKey: 'any', maxRetries: 0 });

const weather = {
  type: 'function',
  name: 'weather',
  description: 'The weather in a city.',
  parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
  strict: false,
};
const degrees = { Bern: '4 °C', Rome: '19 °C' };

const results = (response) =>
  response.output
    .filter((item) => item.type === 'function_call')
    .map((item) => ({
      type: 'function_call_output',
      call_id: item.call_id,
      output: degrees[JSON.parse(item.arguments).city],
    }));

const whole = (request) => client.responses.create({ model: 'auto', ...request });
const byStream = (request) => client.responses.stream({ model: 'auto', ...request }).finalResponse();

// The model calls tools until it has an answer; the whole history goes along each time.
async function loop(ask) {
  const input = [{ role: 'user', content: 'Bern or Rome?' }];
  for (let step = 1; step <= 5; step++) {
    const response = await ask({ input, tools: [weather] });
    const outputs = results(response);
    if (!outputs.length) return { steps: step, text: response.output_text };
    input.push(...response.output, ...outputs);
  }
}

async function refusal(request) {
  try {
    await request;
  } catch (error) {
    return { kind: error.constructor.name, status: error.status, code: error.code, param: error.param };
  }
}

const scenarios = {
  async create() {
    const response = await whole({ input: 'a story' });
    return { text: response.output_text, tokens: response.usage.total_tokens };
  },
  async stream() {
    const deltas = [];
    const stream = client.responses.stream({ model: 'auto', input: 'a story' });
    stream.on('response.output_text.delta', (event) => deltas.push(event.delta));
    return { text: (await stream.finalResponse()).output_text, deltas };
  },
  tools: () => loop(whole),
  'tools-streamed': () => loop(byStream),
  async continued() {
    const first = await byStream({ input: 'Bern or Rome?', tools: [weather] });
    const elsewhere = client.withOptions({ baseURL: process.env.OTHER_URL });
    const more = { model: 'auto', input: results(first), tools: [weather], previous_response_id: first.id };
    const last = await elsewhere.responses.create(more);
    const kept = await client.responses.retrieve(last.id);
    const items = await client.responses.inputItems.list(last.id);
    await client.responses.delete(last.id);
    return {
      text: kept.output_text,
      previous: kept.previous_response_id === first.id,
      items: items.data.map((item) => item.type),
      gone: await refusal(client.responses.retrieve(last.id)),
    };
  },
  async parse() {
    const format = zodTextFormat(z.object({ x: z.number(), y: z.number() }), 'point');
    const response = await client.responses.parse({ model: 'auto', input: 'where?', text: { format } });
    return response.output_parsed;
  },
  async chat() {
    const request = { model: 'auto', messages: [{ role: 'user', content: 'a story' }] };
    const answer = await client.chat.completions.create(request);
    let streamed = '';
    for await (const chunk of await client.chat.completions.create({ ...request, stream: true })) {
      streamed += chunk.choices[0]?.delta?.content ?? '';
    }
    return { text: answer.choices[0].message.content, streamed };
  },
  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return ids;
  },
  async errors() {
    return [
      await refusal(whole({ input: '?' })),
      await refusal(byStream({ input: '?', previous_response_id: 'resp_none' })),
      await refusal(byStream({ input: '?' })),
    ];
  },
};

console.log(JSON.stringify(await scenarios[process.argv[2]]()));
