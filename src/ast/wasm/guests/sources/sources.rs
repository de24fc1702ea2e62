//! Empty: this package only pins the C sources of the guests.
