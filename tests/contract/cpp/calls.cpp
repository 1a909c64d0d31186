// Makes the contract's calls with gRPC's C++ library and generated code.
//
//   calls HOST:PORT
//
// Prints a line of JSON for each call: its name, its status code, the messages that came and the error's details.
#include <chrono>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "index/v1/chat.grpc.pb.h"
#include "told.h"

using namespace index_grpc::v1;

namespace {

constexpr double kPatienceSeconds = 60;
constexpr size_t kNever = std::numeric_limits<size_t>::max();

class Caller {
 public:
  explicit Caller(const std::string& address)
      : stub_(ChatService::NewStub(grpc::CreateChannel(address, grpc::InsecureChannelCredentials()))) {}

  void model(const std::string& call) {
    grpc::ClientContext context;
    GetModelResponse response;
    const grpc::Status status = stub_->GetModel(&context, GetModelRequest(), &response);
    tell(call, status, {json(response)});
  }

  void chat(const std::string& call, const ChatRequest& request, double seconds = kPatienceSeconds) {
    grpc::ClientContext context;
    set_deadline(context, seconds);
    ChatResponse response;
    const grpc::Status status = stub_->Chat(&context, request, &response);
    tell(call, status, status.ok() ? std::vector{json(response)} : std::vector<std::string>());
  }

  void stream(const std::string& call, const ChatRequest& request, size_t leave_after = kNever,
              double seconds = kPatienceSeconds) {
    grpc::ClientContext context;
    set_deadline(context, seconds);
    context.AddMetadata("x-request-id", "c++-" + call);
    const auto reader = stub_->ChatStream(&context, request);
    std::vector<std::string> messages;
    ChatStreamResponse message;
    while (reader->Read(&message)) {
      messages.push_back(json(message));
      if (messages.size() == leave_after) context.TryCancel();
    }
    tell(call, reader->Finish(), messages);
  }

 private:
  static void set_deadline(grpc::ClientContext& context, double seconds) {
    const auto length = std::chrono::microseconds(static_cast<int64_t>(seconds * 1e6));
    context.set_deadline(std::chrono::system_clock::now() + length);
  }

  std::unique_ptr<ChatService::Stub> stub_;
};

ChatRequest story() {
  ChatRequest request;
  request.set_prompt("讲个故事");
  request.mutable_sampling()->set_seed(7);
  request.set_max_tokens(60);
  return request;
}

ChatRequest greedy() {
  ChatRequest request = story();
  request.mutable_sampling()->set_temperature(0);
  return request;
}

ChatRequest wild() {
  ChatRequest request = story();
  request.mutable_sampling()->set_temperature(2);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_seed(1);
  return request;
}

ChatRequest without_top_k() {
  ChatRequest request = wild();
  request.mutable_sampling()->set_top_k(0);
  return request;
}

ChatRequest endless() {
  ChatRequest request = greedy();
  request.mutable_sampling()->set_repetition_penalty(0.1);
  request.set_max_tokens(2000);
  return request;
}

void add(ChatRequest& request, Role role, const std::string& content) {
  Message* message = request.add_history();
  message->set_role(role);
  message->set_content(content);
}

ChatRequest conversation() {
  ChatRequest request;
  request.set_prompt("你叫什么？🙂");
  add(request, ROLE_SYSTEM, "你是助手。");
  add(request, ROLE_USER, "你好，世界 🌏");
  add(request, ROLE_ASSISTANT, "你好！");
  request.mutable_sampling()->set_temperature(0);
  return request;
}

ChatRequest invalid() {
  ChatRequest request;
  add(request, ROLE_UNSPECIFIED, "谁？");
  request.mutable_sampling()->set_temperature(3);
  request.mutable_sampling()->set_top_p(0);
  request.set_max_tokens(0);
  request.add_stop("");
  return request;
}

ChatRequest of_another_model() {
  ChatRequest request = story();
  request.set_model("another");
  return request;
}

ChatRequest without_time() {
  ChatRequest request = story();
  request.mutable_time_limit()->set_nanos(1);
  return request;
}

ChatRequest of_many_words() {
  ChatRequest request;
  for (int count = 0; count < 900; ++count) request.mutable_prompt()->append("你好");
  return request;
}

}  // namespace

int main(int, char** arguments) {
  Caller caller(arguments[1]);
  caller.model("model");
  caller.chat("chat", story());
  caller.stream("stream", story());
  caller.chat("greedy", greedy());
  caller.chat("top-k-unset", wild());
  caller.chat("top-k-zero", without_top_k());
  caller.chat("conversation", conversation());
  caller.chat("invalid", invalid());
  caller.chat("other-model", of_another_model());
  caller.stream("cancel", endless(), 2);
  caller.stream("deadline", endless(), kNever, 1);
  caller.chat("no-time", without_time());
  caller.chat("late", of_many_words(), 0.001);
}
