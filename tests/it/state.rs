//! Behaviour of `state`.

mod basics;
mod durable;
