# Makes the contract's calls with Ruby's grpc gem and generated code.
#
#     ruby -I generated calls.rb HOST:PORT
#
# Prints a line of JSON for each call: its name, its status code, the messages that came and the error's details.
require "json"
require "grpc"
require "google/protobuf/well_known_types"
require "google/rpc/error_details_pb"
require "index/v1/chat_services_pb"

include Index::V1

CHAT = ChatService::Stub.new(ARGV.fetch(0), :this_channel_is_insecure)

def tell(call, messages, error = nil)
  printable = messages.map { |message| JSON.parse(message.to_json) }
  puts JSON.generate(call:, code: error ? error.code : 0, messages: printable, details: error ? details_of(error) : {})
end

def details_of(error)
  status = error.to_rpc_status or return {}
  status.details.to_h { |detail| [detail.type_name, JSON.parse(unpack(detail).to_json)] }
end

def unpack(detail)
  detail.unpack(Google::Protobuf::DescriptorPool.generated_pool.lookup(detail.type_name).msgclass)
end

def ask(call, method, request, seconds: 60)
  tell(call, [CHAT.public_send(method, request, deadline: Time.now + seconds)])
rescue GRPC::BadStatus => e
  tell(call, [], e)
end

def stream(call, request, leave_after: nil, seconds: 60)
  messages = []
  metadata = { "x-request-id" => "ruby-#{call}" }
  operation = CHAT.chat_stream(request, deadline: Time.now + seconds, metadata:, return_op: true)
  operation.execute.each do |message|
    messages << message
    operation.cancel if messages.size == leave_after
  end
  tell(call, messages)
rescue GRPC::BadStatus => e
  tell(call, messages, e)
end

def story(**fields)
  ChatRequest.new(prompt: "讲个故事", sampling: SamplingParams.new(seed: 7), max_tokens: 60, **fields)
end

def wild(**fields)
  SamplingParams.new(temperature: 2, top_p: 1, seed: 1, **fields)
end

ENDLESS = story(sampling: SamplingParams.new(temperature: 0, repetition_penalty: 0.1), max_tokens: 2000)

ask("model", :get_model, GetModelRequest.new)
ask("chat", :chat, story)
stream("stream", story)
ask("greedy", :chat, story(sampling: SamplingParams.new(temperature: 0, seed: 7)))
ask("top-k-unset", :chat, story(sampling: wild))
ask("top-k-zero", :chat, story(sampling: wild(top_k: 0)))
ask("conversation", :chat, ChatRequest.new(
  prompt: "你叫什么？🙂",
  history: [
    Message.new(role: :ROLE_SYSTEM, content: "你是助手。"),
    Message.new(role: :ROLE_USER, content: "你好，世界 🌏"),
    Message.new(role: :ROLE_ASSISTANT, content: "你好！")
  ],
  sampling: SamplingParams.new(temperature: 0)
))
ask("invalid", :chat, ChatRequest.new(
  history: [Message.new(content: "谁？")],
  sampling: SamplingParams.new(temperature: 3, top_p: 0),
  max_tokens: 0,
  stop: [""]
))
ask("other-model", :chat, story(model: "another"))
stream("cancel", ENDLESS, leave_after: 2)
stream("deadline", ENDLESS, seconds: 1)
ask("no-time", :chat, story(time_limit: Google::Protobuf::Duration.new(nanos: 1)))
ask("late", :chat, ChatRequest.new(prompt: "你好" * 900), seconds: 0.001)
