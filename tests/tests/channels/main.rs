//! Integration channels on three real nodes (R-I1, R-I2, R-I4, R-I18): cases ask, connectors answer, and whatever happens to
//! connectors and leaders, each request is answered once.

mod faults;
mod lies;
mod local;
mod reading;
mod story;
mod support;
