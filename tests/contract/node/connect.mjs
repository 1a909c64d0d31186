// Makes the contract's calls with Connect and generated code, over the given transport.
//
//   node connect.mjs grpc|grpc-web|connect http://HOST:PORT
//
// Prints a line of JSON for each call: its name, its status code, the messages that came and the error's details.
import { toJson } from "@bufbuild/protobuf";
import { ConnectError, createClient } from "@connectrpc/connect";
import { createConnectTransport, createGrpcTransport, createGrpcWebTransport } from "@connectrpc/connect-node";
import { makeCalls } from "./calls.mjs";
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

await makeCalls(ask, stream, { system: Role.SYSTEM, user: Role.USER, assistant: Role.ASSISTANT });
