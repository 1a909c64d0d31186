# Asks two questions in one conversation. Start a server (`make run`), install the Debian packages ruby-grpc and
# protobuf-compiler-grpc, and run in the repository's root:
#
#     mkdir -p build/ruby && protoc -I protos --ruby_out=build/ruby index/v1/chat.proto
#     protoc -I protos --grpc_out=build/ruby --plugin=protoc-gen-grpc=$(which grpc_ruby_plugin) index/v1/chat.proto
#     ruby -I build/ruby examples/ruby/chat.rb
require "index/v1/chat_services_pb"

include Index::V1

address = ENV.fetch("INDEX_GRPC_ADDRESS", "127.0.0.1:50051")
chat = ChatService::Stub.new(address, :this_channel_is_insecure, timeout: 60)

begin
  first = chat.chat(ChatRequest.new(prompt: "My favourite colour is blue."))
  puts first.response
  # A field that is not set has the server's default. Zero is a value like others: this is greedy.
  greedy = SamplingParams.new(temperature: 0)
  request = ChatRequest.new(prompt: "What is my favourite colour?", history: first.history.to_a, sampling: greedy)
  chat.chat_stream(request).each do |message|
    print message.delta
    puts "\n#{message.finish.usage.total_tokens} tokens" if message.finish
  end
rescue GRPC::BadStatus => e
  abort "#{e.class.name}: #{e.details}"
end
