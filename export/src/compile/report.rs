//! The plans, for people.

use std::fmt;

use arrcoc_runtime::library::ort::tensorrt::shape;

use super::{Plan, Plans};
use crate::progress::human_bytes;
use crate::table::Table;

impl fmt::Display for Plans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "TensorRT plans of {}", self.bundle.display())?;
        writeln!(f, "for {}", self.machine)?;
        if let Some(reason) = &self.unknown {
            writeln!(f, "The machine is a placeholder: {reason}")?;
        }
        self.plans.iter().try_for_each(|plan| writeln!(f, "\n{plan}"))
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.built { "compiled" } else { "to be compiled" };
        writeln!(f, "{}: {}, {state}", self.graph, human_bytes(self.weight_bytes))?;
        writeln!(f, "  graph   {}", self.file.display())?;
        writeln!(f, "  plan    {}", self.place.context.display())?;
        // The profiles have their own table, and the paths stand above.
        let plain = |key: &str| !key.starts_with("trt_profile") && !key.ends_with("_path");
        let options = self.options.iter().filter(|(key, _)| plain(key));
        let options: Vec<_> = options.map(|(key, value)| format!("{key}={value}")).collect();
        writeln!(f, "  options {}", options.join(" "))?;
        let mut table = Table::new(&["min", "opt", "max"]);
        for input in &self.profile {
            let text = |lengths: &[u64]| format!("{}:{}", input.name, shape(lengths));
            table.row([text(&input.min), text(&input.opt), text(&input.max)]);
        }
        write!(f, "{table}")
    }
}
