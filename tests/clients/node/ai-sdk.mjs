// The Vercel AI SDK with its default settings, so with store and item references; told as one line of JSON.
//   BASE_URL=http://127.0.0.1:3030/v1 OTHER_URL=… node ai-sdk.mjs generate auto
import { createOpenAI } from '@ai-sdk/openai';
import { generateText, isStepCount, Output, streamText, tool } from 'ai';
import { z } from 'zod';

const [, , scenario, model] = process.argv;
const references = []; // how many items each request named by id only
const openai = createOpenAI({
  baseURL: process.env.BASE_URL,
  apiKey: 'any',
  fetch: (url, init) => {
    const { input = [] } = JSON.parse(init.body);
    references.push(input.filter((item) => item.type === 'item_reference').length);
    if (references.length % 2 === 0) url = url.replace(process.env.BASE_URL, process.env.OTHER_URL);
    return fetch(url, init);
  },
});

const degrees = { Bern: '4 °C', Rome: '19 °C' };
const weather = tool({
  description: 'The weather in a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => degrees[city],
});
const asked = {
  model: openai(model),
  tools: { weather },
  stopWhen: isStepCount(5),
  prompt: 'Bern or Rome?',
  maxRetries: 0,
};

const told = async (result) => ({
  text: await result.text,
  references,
  steps: (await result.steps).map((step) => ({
    reasoning: step.reasoningText ?? null,
    text: step.text,
    calls: step.toolCalls.map((call) => [call.toolName, call.input.city]),
    results: step.toolResults.map((result) => result.output),
    finish: step.finishReason,
  })),
});

const scenarios = {
  generate: async () => told(await generateText(asked)),
  stream: async () => {
    const result = streamText(asked);
    const parts = [];
    for await (const part of result.fullStream) parts.push(part.type);
    return { ...(await told(result)), parts };
  },
  // A chat program: it keeps the messages and goes on from them, with a question after the loop.
  conversation: async () => {
    const first = await generateText(asked);
    const messages = [{ role: 'user', content: asked.prompt }, ...first.responseMessages];
    messages.push({ role: 'user', content: 'Sure?' });
    const { prompt, ...same } = asked;
    return told(await generateText({ ...same, messages }));
  },
  private: async () => {
    const headers = { 'X-LLR-Sensitivity': 'high' };
    const openai = { store: false, include: ['reasoning.encrypted_content'] };
    return told(await generateText({ ...asked, headers, providerOptions: { openai } }));
  },
  object: async () => {
    const { output } = await generateText({
      model: openai(model),
      prompt: 'where?',
      output: Output.object({ schema: z.object({ x: z.number(), y: z.number() }) }),
    });
    return output;
  },
  chat: async () => told(await generateText({ ...asked, model: openai.chat(model) })),
};

console.log(JSON.stringify(await scenarios[scenario]()));
