// Makes the contract's calls with Connect and generated code, over a transport by choice.
//
//   node connect.mjs grpc|grpc-web|connect http://HOST:PORT
//
// Prints a line of JSON for each call: its name, its status code, the messages that came and the error's details.
import { toJson } from "@bufbuild/protobuf";
import { ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { BadRequestSchema, ErrorInfoSchema, RequestInfoSchema } from "./generated/google/rpc/error_details_pb.js";
import { ChatService, Role } from "./generated/index/v1/chat_pb.js";

const [protocol, baseUrl] = process.argv.slice(2);
const transports = {
  grpc: () => createGrpcTransport({ baseUrl }),
  "grpc-web": () => createGrpcWebTransport({ baseUrl, httpVersion: "1.1" }),
  connect: () => createConnectTransport({ baseUrl, httpVersion: "1.1" }),
};
const client = createClient(ChatService, transports[protocol]());

function tell(call, method, messages, error) {
  const printable = messages.map((message) => toJson(ChatService.method[method].output, message));
  const details = error ? detailsOf(error) : {};
  console.log(JSON.stringify({ call, code: error?.code ?? 0, messages: printable, details }));
}

function detailsOf(error) {
  const details = {};
  for (const schema of [BadRequestSchema, ErrorInfoSchema, RequestInfoSchema]) {
    for (const detail of error.findDetails(schema)) details[schema.typeName] = toJson(schema, detail);
  }
  return details;
}

async function ask(call, method, request, seconds = 60) {
  try {
    tell(call, method, [await client[method](request, { timeoutMs: seconds * 1000 })]);
  } catch (error) {
    tell(call, method, [], ConnectError.from(error));
  }
}

async function stream(call, request, { leaveAfter = Infinity, seconds = 60 } = {}) {
  const leaving = new AbortController();
  const headers = { "x-request-id": `connect-${protocol}-${call}` };
  const options = { headers, signal: leaving.signal, timeoutMs: seconds * 1000 };
  const messages = [];
  try {
    for await (const message of client.chatStream(request, options)) {
      messages.push(message);
      if (messages.length === leaveAfter) leaving.abort();
    }
    tell(call, "chatStream", messages);
  } catch (error) {
    tell(call, "chatStream", messages, ConnectError.from(error));
  }
}

const story = { prompt: "讲个故事", sampling: { seed: 7 }, maxTokens: 60 };
const endless = { prompt: "讲个故事", sampling: { temperature: 0, repetitionPenalty: 0.1 }, maxTokens: 2000 };
const wild = { temperature: 2, topP: 1, seed: 1 };

await ask("model", "getModel", {});
await ask("chat", "chat", story);
await stream("stream", story);
await ask("greedy", "chat", { ...story, sampling: { temperature: 0, seed: 7 } });
await ask("top-k-unset", "chat", { ...story, sampling: wild });
await ask("top-k-zero", "chat", { ...story, sampling: { ...wild, topK: 0 } });
await ask("conversation", "chat", {
  prompt: "你叫什么？🙂",
  history: [
    { role: Role.SYSTEM, content: "你是助手。" },
    { role: Role.USER, content: "你好，世界 🌏" },
    { role: Role.ASSISTANT, content: "你好！" },
  ],
  sampling: { temperature: 0 },
});
await ask("invalid", "chat", {
  history: [{ content: "谁？" }],
  sampling: { temperature: 3, topP: 0 },
  maxTokens: 0,
  stop: [""],
});
await ask("other-model", "chat", { ...story, model: "another" });
await stream("cancel", endless, { leaveAfter: 2 });
await stream("deadline", endless, { seconds: 1 });
await ask("no-time", "chat", { ...story, timeLimit: { nanos: 1 } });
await ask("late", "chat", { prompt: "你好".repeat(900) }, 0.001);
