"""Commands of `index-grpc` that have no package of their own."""
