// Asks two questions in one conversation. Start a server (`make run`), and run in the repository's root with Node 20 or
// later:
//
//     npm install --no-save @grpc/grpc-js @grpc/proto-loader
//     node examples/node/chat.mjs
import grpc from "@grpc/grpc-js";
import loader from "@grpc/proto-loader";

const contract = loader.loadSync("index/v1/chat.proto", { includeDirs: ["protos"], enums: String });
const { ChatService } = grpc.loadPackageDefinition(contract).index.v1;
const address = process.env.INDEX_GRPC_ADDRESS ?? "127.0.0.1:50051";
const client = new ChatService(address, grpc.credentials.createInsecure());
const inAMinute = () => ({ deadline: Date.now() + 60_000 });

const chat = (request) =>
  new Promise((resolve, reject) => {
    client.chat(request, inAMinute(), (error, answer) => (error ? reject(error) : resolve(answer)));
  });

try {
  const first = await chat({ prompt: "My favourite colour is blue." });
  console.log(first.response);
  // A field that is not set has the server's default. Zero is a value like others: this is greedy.
  const next = { prompt: "What is my favourite colour?", history: first.history, sampling: { temperature: 0 } };
  for await (const { delta, finish } of client.chatStream(next, inAMinute())) {
    process.stdout.write(delta ?? "");
    if (finish) console.log(`\n${finish.usage.totalTokens} tokens`);
  }
} catch (error) {
  console.error(`${grpc.status[error.code]}: ${error.details}`);
  process.exitCode = 1;
}
client.close();
