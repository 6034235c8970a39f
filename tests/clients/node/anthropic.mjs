// The @anthropic-ai/sdk package for Node: one scenario a run, told as one line of JSON.
//   BASE_URL=http://127.0.0.1:3030 node anthropic.mjs create
import Anthropic from '@anthropic-ai/sdk';

const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: 'any', maxRetries: 0 });

const weather = {
  name: 'weather',
  description: 'The weather in a city.',
  input_schema: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] },
};
const degrees = { Bern: '4 °C', Rome: '19 °C' };
const request = { model: 'auto', max_tokens: 500, tools: [weather] };

const whole = (messages) => client.messages.create({ ...request, messages });
const byStream = (messages) => client.messages.stream({ ...request, messages }).finalMessage();

const textOf = (message) => message.content.map((block) => block.text ?? '').join('');
const results = (message) =>
  message.content
    .filter((block) => block.type === 'tool_use')
    .map((block) => ({ type: 'tool_result', tool_use_id: block.id, content: degrees[block.input.city] }));

// The model calls tools until it has an answer; the whole history goes along each time.
async function loop(ask) {
  const messages = [{ role: 'user', content: 'Bern or Rome?' }];
  for (let step = 1; step <= 5; step++) {
    const message = await ask(messages);
    const outputs = results(message);
    if (!outputs.length) return { steps: step, text: textOf(message), stop: message.stop_reason };
    messages.push({ role: 'assistant', content: message.content }, { role: 'user', content: outputs });
  }
}

async function failure() {
  try {
    await client.messages.create({ ...request, messages: [] });
  } catch (error) {
    return { name: error.constructor.name, status: error.status, type: error.error.error.type, id: error.requestID };
  }
}

const scenarios = { create: () => loop(whole), stream: () => loop(byStream), failure };
console.log(JSON.stringify(await scenarios[process.argv[2]]()));
