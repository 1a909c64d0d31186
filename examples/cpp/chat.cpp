// Asks for a story and streams the answer. Start a server (`make run`), install the Debian packages g++, pkg-config,
// libgrpc++-dev and protobuf-compiler-grpc, and run in the repository's root (`sed` is needed because C has a function
// `index`):
//
//     mkdir -p build/cpp && protoc -I protos --cpp_out=build/cpp index/v1/chat.proto
//     protoc -I protos --grpc_out=build/cpp --plugin=protoc-gen-grpc=$(which grpc_cpp_plugin) index/v1/chat.proto
//     sed -i 's/^namespace index {/namespace index_grpc {/; s/::index::v1/::index_grpc::v1/g' build/cpp/index/v1/*
//     g++ -Ibuild/cpp -o build/cpp/chat examples/cpp/chat.cpp build/cpp/*/*/*.cc $(pkg-config --libs grpc++ protobuf)
//     build/cpp/chat
#include <chrono>
#include <cstdlib>
#include <iostream>

#include <grpcpp/grpcpp.h>

#include "index/v1/chat.grpc.pb.h"

int main() {
  const char* address = std::getenv("INDEX_GRPC_ADDRESS");
  const auto channel = grpc::CreateChannel(address ? address : "127.0.0.1:50051", grpc::InsecureChannelCredentials());
  const auto stub = index_grpc::v1::ChatService::NewStub(channel);

  index_grpc::v1::ChatRequest request;
  request.set_prompt("讲个故事");
  request.mutable_sampling()->set_temperature(0);  // zero is greedy; if it is not set, the server's default applies

  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  const auto stream = stub->ChatStream(&context, request);
  index_grpc::v1::ChatStreamResponse message;
  while (stream->Read(&message)) {
    std::cout << message.delta() << std::flush;
    if (message.has_finish()) std::cout << "\n" << message.finish().usage().total_tokens() << " tokens\n";
  }

  const grpc::Status status = stream->Finish();
  if (!status.ok()) std::cerr << status.error_code() << ": " << status.error_message() << "\n";
  return status.ok() ? 0 : 1;
}
