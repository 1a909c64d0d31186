// Prints the result of a call as a line of JSON.
#pragma once

#include <string>
#include <vector>

#include <google/protobuf/message.h>
#include <grpcpp/grpcpp.h>

// Returns the message in protobuf's JSON.
std::string json(const google::protobuf::Message& message);

// Prints the call's name, its status code, the messages that came (in JSON) and the error's details.
void tell(const std::string& call, const grpc::Status& status, const std::vector<std::string>& messages);
