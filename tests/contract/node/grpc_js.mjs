// Makes the contract's calls with @grpc/grpc-js, which loads the contract as it runs.
//
//   node grpc_js.mjs HOST:PORT FOLDER_WITH_PROTOS
//
// Prints a line of JSON for each call: its name, its status code, the messages that came and the error's details.
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

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
    { role: "ROLE_SYSTEM", content: "你是助手。" },
    { role: "ROLE_USER", content: "你好，世界 🌏" },
    { role: "ROLE_ASSISTANT", content: "你好！" },
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
client.close();
