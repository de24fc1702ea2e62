//! The pool against a naive model.
