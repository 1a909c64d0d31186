// Makes the contract's calls with @grpc/grpc-js, which loads the contract at run time.
//
//   node grpc_js.mjs HOST:PORT FOLDER_WITH_PROTOS
//
// Prints a line of JSON for each call: its name, its status code, the messages that came and the error's details.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";
import { makeCalls } from "./calls.mjs";

const [address, protos] = process.argv.slice(2);
const files = ["index/v1/chat.proto", "google/rpc/status.proto", "google/rpc/error_details.proto"];
const loaded = loader.loadSync(files, { includeDirs: [protos], enums: String, longs: String });
const { ChatService } = grpc.loadPackageDefinition(loaded).index.v1;
const client = new ChatService(address, grpc.credentials.createInsecure());

const fromNow = (seconds) => new Date(Date.now() + seconds * 1000);

function tell(call, messages, error) {
  const details = error ? detailsOf(error) : {};
  console.log(JSON.stringify({ call, code: error?.code ?? grpc.status.OK, messages, details }));
}

function detailsOf(error) {
  const [packed] = error.metadata.get("grpc-status-details-bin");
  if (!packed) return {};
  const unpacked = loaded["google.rpc.Status"].deserialize(packed).details.map((detail) => {
    const name = detail.type_url.split("/").at(-1); // the loader's own Any, which keeps the names of the proto
    return [name, loaded[name].deserialize(detail.value)];
  });
  return Object.fromEntries(unpacked);
}

function ask(call, method, request, seconds = 60) {
  return new Promise((resolve) => {
    client[method](request, { deadline: fromNow(seconds) }, (error, response) => {
      tell(call, response ? [response] : [], error);
      resolve();
    });
  });
}

async function stream(call, request, { leaveAfter = Infinity, seconds = 60 } = {}) {
  const metadata = new grpc.Metadata();
  metadata.set("x-request-id", `grpc-js-${call}`);
  const answer = client.chatStream(request, metadata, { deadline: fromNow(seconds) });
  const messages = [];
  try {
    for await (const message of answer) {
      messages.push(message);
      if (messages.length === leaveAfter) answer.cancel();
    }
    tell(call, messages);
  } catch (error) {
    tell(call, messages, error);
  }
}

await makeCalls(ask, stream, { system: "ROLE_SYSTEM", user: "ROLE_USER", assistant: "ROLE_ASSISTANT" });
client.close();
