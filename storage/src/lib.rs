//! How a log is kept, and how state is folded from it.
