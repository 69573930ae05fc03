//! Metrics of a host, as `xyl metrics` and `/metrics` show them, in Prometheus's text format.

mod exposition;
mod families;
mod sample;

pub use exposition::{Family, as_json, text};
pub use families::all;
pub use sample::{Asked, Sample, Source};
