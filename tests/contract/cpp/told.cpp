#include "told.h"

#include <iostream>
#include <stdexcept>

#include <google/protobuf/util/json_util.h>

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace {

std::string joined(const std::vector<std::string>& parts) {
  std::string whole;
  for (const std::string& part : parts) whole += (whole.empty() ? "" : ",") + part;
  return whole;
}

// Adds the detail under its type's name if it is a Kind.
template <class Kind>
void take(const google::protobuf::Any& detail, std::vector<std::string>& taken) {
  Kind found;
  if (detail.UnpackTo(&found)) taken.push_back('"' + found.GetTypeName() + "\":" + json(found));
}

std::vector<std::string> details_of(const grpc::Status& status) {
  google::rpc::Status packed;
  if (!packed.ParseFromString(status.error_details())) throw std::runtime_error("the details do not parse");
  std::vector<std::string> details;
  for (const google::protobuf::Any& detail : packed.details()) {
    take<google::rpc::BadRequest>(detail, details);
    take<google::rpc::ErrorInfo>(detail, details);
    take<google::rpc::RequestInfo>(detail, details);
  }
  return details;
}

}  // namespace

std::string json(const google::protobuf::Message& message) {
  std::string text;
  const auto status = google::protobuf::util::MessageToJsonString(message, &text);
  if (!status.ok()) throw std::runtime_error(status.ToString());
  return text;
}

void tell(const std::string& call, const grpc::Status& status, const std::vector<std::string>& messages) {
  std::cout << "{\"call\":\"" << call << "\",\"code\":" << status.error_code() << ",\"messages\":[" << joined(messages)
            << "],\"details\":{" << joined(details_of(status)) << "}}" << std::endl;
}
