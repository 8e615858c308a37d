//! Error kinds and their one table of HTTP status, gRPC code and metric label.
