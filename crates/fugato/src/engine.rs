//! The engine: loaded models behind one interface for both protocols.
