#!/bin/sh
# Asks with grpcurl, which learns the contract from the server. Start a server (`make run`), and run:
#
#     sh examples/shell/chat.sh
set -eu
ADDRESS=${INDEX_GRPC_ADDRESS:-127.0.0.1:50051}

grpcurl -plaintext "$ADDRESS" describe index.v1.ChatService
grpcurl -plaintext -d '{"prompt": "你好", "sampling": {"temperature": 0}}' "$ADDRESS" index.v1.ChatService/Chat
grpcurl -plaintext -d '{"prompt": "讲个故事", "maxTokens": 60}' "$ADDRESS" index.v1.ChatService/ChatStream
