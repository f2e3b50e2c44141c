//! Operators that reduce or rank an axis.

use crate::graph::{Attribute, Builder, Dim, Element, Value};

macro_rules! reduce {
    ($($(#[$doc:meta])* $name:ident = $operator:literal;)*) => { $(
        $(#[$doc])*
        pub fn $name(&mut self, x: &Value, axes: &[isize]) -> Value {
            self.reduce($operator, x, axes)
        }
    )* };
}

/// Reductions; the reduced axes stay, with length 1.
impl Builder {
    reduce! {
        /// Largest element.
        reduce_max = "ReduceMax";
        /// Arithmetic mean.
        reduce_mean = "ReduceMean";
        /// Sum.
        reduce_sum = "ReduceSum";
    }

    fn reduce(&mut self, operator: &'static str, x: &Value, axes: &[isize]) -> Value {
        let mut dims = x.dims.clone();
        let positive: Vec<i64> = axes.iter().map(|&axis| x.axis(axis) as i64).collect();
        for &axis in &positive {
            dims[axis as usize] = Dim::Fixed(1);
        }
        let axes = self.ints(&[positive.len()], &positive);
        self.emit(operator, &[x, &axes], vec![("keepdims", Attribute::Int(1))], x.element, dims)
    }

    /// Softmax over the last axis.
    pub fn softmax(&mut self, x: &Value) -> Value {
        self.emit("Softmax", &[x], vec![("axis", Attribute::Int(-1))], x.element, x.dims.clone())
    }

    /// Logarithm of the softmax over the last axis.
    pub fn log_softmax(&mut self, x: &Value) -> Value {
        self.emit("LogSoftmax", &[x], vec![("axis", Attribute::Int(-1))], x.element, x.dims.clone())
    }

    /// The `k` largest along the last axis, largest first, ties to the lower index: values and indices.
    pub fn top_k(&mut self, x: &Value, k: usize) -> (Value, Value) {
        let mut dims = x.dims.clone();
        dims[x.rank() - 1] = Dim::Fixed(k);
        let k = self.ints(&[1], &[k as i64]);
        let attributes =
            vec![("axis", Attribute::Int(-1)), ("largest", Attribute::Int(1)), ("sorted", Attribute::Int(1))];
        let outputs = vec![Some((x.element, dims.clone())), Some((Element::I64, dims))];
        let mut outputs = self.emit_in("", "TopK", &[Some(x), Some(&k)], attributes, outputs);
        let indices = outputs.remove(1);
        (outputs.remove(0), indices)
    }
}
