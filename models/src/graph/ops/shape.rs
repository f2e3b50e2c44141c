//! Operators that move elements and measure shapes.

use crate::graph::{Attribute, Builder, Dim, Element, Value};

/// Shapes and indices.
impl Builder {
    /// Changes the shape and keeps the order of elements. Sizes that `x` has in the same place are copied by
    /// the operator and one more may be left to it; only what remains is computed.
    pub fn reshape(&mut self, x: &Value, dims: Vec<Dim>) -> Value {
        if x.dims == dims {
            return x.clone();
        }
        let mut inferred = false;
        let mut parts = Vec::new();
        for (i, dim) in dims.iter().enumerate() {
            parts.push(match dim {
                Dim::Fixed(n) => Ok(*n as i64),
                dim if x.dims.get(i) == Some(dim) => Ok(0),
                _ if !inferred => {
                    inferred = true;
                    Ok(-1)
                }
                dim => Err(dim.clone()),
            });
        }
        let shape = self.shape_tensor(&parts);
        self.emit("Reshape", &[x, &shape], vec![], x.element, dims)
    }

    /// A shape as an integer tensor: a constant where every size is known, a `Concat` otherwise.
    fn shape_tensor(&mut self, parts: &[Result<i64, Dim>]) -> Value {
        if let Ok(known) = parts.iter().cloned().collect::<Result<Vec<_>, _>>() {
            return self.ints(&[known.len()], &known);
        }
        let parts: Vec<Value> = parts
            .iter()
            .map(|part| match part {
                Ok(n) => self.ints(&[1], &[*n]),
                Err(dim) => self.size(dim),
            })
            .collect();
        self.concat(&parts.iter().collect::<Vec<_>>(), 0)
    }

    /// Reorders the axes.
    pub fn transpose(&mut self, x: &Value, order: &[usize]) -> Value {
        let dims = order.iter().map(|&axis| x.dims[axis].clone()).collect();
        let order = order.iter().map(|&axis| axis as i64).collect();
        self.emit("Transpose", &[x], vec![("perm", Attribute::Ints(order))], x.element, dims)
    }

    /// Joins tensors along an axis.
    pub fn concat(&mut self, parts: &[&Value], axis: isize) -> Value {
        let axis = parts[0].axis(axis);
        let mut dims = parts[0].dims.clone();
        dims[axis] = parts[1..].iter().fold(dims[axis].clone(), |sum, part| sum.plus(&part.dims[axis]));
        self.emit("Concat", parts, vec![("axis", Attribute::Int(axis as i64))], parts[0].element, dims)
    }

    /// Cuts an axis of known length into pieces of the given lengths.
    pub fn split(&mut self, x: &Value, sizes: &[usize], axis: isize) -> Vec<Value> {
        let axis = x.axis(axis);
        let lengths: Vec<i64> = sizes.iter().map(|&n| n as i64).collect();
        let lengths = self.ints(&[sizes.len()], &lengths);
        let outputs = sizes.iter().map(|&n| {
            let mut dims = x.dims.clone();
            dims[axis] = Dim::Fixed(n);
            Some((x.element, dims))
        });
        let attributes = vec![("axis", Attribute::Int(axis as i64))];
        self.emit_in("", "Split", &[Some(x), Some(&lengths)], attributes, outputs.collect())
    }

    /// The first `length` entries of an axis.
    pub fn take(&mut self, x: &Value, length: &Dim, axis: isize) -> Value {
        let start = self.ints(&[1], &[0]);
        let end = self.size(length);
        self.slice(x, &start, &end, axis, length.clone())
    }

    /// All entries of an axis but the first `count`; the caller knows what remains.
    pub fn skip(&mut self, x: &Value, count: i64, axis: isize, remaining: Dim) -> Value {
        let start = self.ints(&[1], &[count]);
        // The specification's "to the end", and the only end beyond the axis that tract accepts.
        let end = self.ints(&[1], &[i64::MAX]);
        self.slice(x, &start, &end, axis, remaining)
    }

    /// `length` entries of an axis behind the first `start`.
    pub fn window(&mut self, x: &Value, start: usize, length: &Dim, axis: isize) -> Value {
        let first = self.ints(&[1], &[start as i64]);
        let end = self.size(&length.plus(start));
        self.slice(x, &first, &end, axis, length.clone())
    }

    fn slice(&mut self, x: &Value, start: &Value, end: &Value, axis: isize, length: Dim) -> Value {
        let axis = x.axis(axis);
        let mut dims = x.dims.clone();
        dims[axis] = length;
        let axes = self.ints(&[1], &[axis as i64]);
        self.emit("Slice", &[x, start, end, &axes], vec![], x.element, dims)
    }

    /// Picks entries of `axis` by index: the axis is replaced by the shape of `indices`.
    pub fn gather(&mut self, x: &Value, indices: &Value, axis: isize) -> Value {
        let axis = x.axis(axis);
        let mut dims = x.dims[..axis].to_vec();
        dims.extend(indices.dims.iter().cloned());
        dims.extend(x.dims[axis + 1..].iter().cloned());
        self.emit("Gather", &[x, indices], vec![("axis", Attribute::Int(axis as i64))], x.element, dims)
    }

    /// Picks one element per index along `axis`; the result has the shape of `indices`.
    pub fn gather_elements(&mut self, x: &Value, indices: &Value, axis: isize) -> Value {
        let attributes = vec![("axis", Attribute::Int(x.axis(axis) as i64))];
        self.emit("GatherElements", &[x, indices], attributes, x.element, indices.dims.clone())
    }

    /// Repeats axes of length 1.
    pub fn expand(&mut self, x: &Value, dims: Vec<Dim>) -> Value {
        let parts: Vec<_> =
            dims.iter().map(|dim| dim.fixed().map_or_else(|| Err(dim.clone()), |n| Ok(n as i64))).collect();
        let shape = self.shape_tensor(&parts);
        self.emit("Expand", &[x, &shape], vec![], x.element, dims)
    }

    /// Integers from `start` (a number or a size) up to, but not including, `start + length`.
    pub fn range(&mut self, start: &Dim, length: &Dim) -> Value {
        let (start, end) = (self.size(start), self.size(&start.plus(length)));
        let (start, end) = (self.reshape(&start, vec![]), self.reshape(&end, vec![]));
        let step = self.ints(&[], &[1]);
        self.emit("Range", &[&start, &end, &step], vec![], Element::I64, vec![length.clone()])
    }

    /// Appends zeros to an axis until it is `length` long.
    pub fn pad_to(&mut self, x: &Value, axes: &[(usize, Dim)]) -> Value {
        let mut dims = x.dims.clone();
        let mut ends: Vec<Value> = vec![self.ints(&[1], &[0]); x.rank()];
        for (axis, length) in axes {
            let (now, then) = (self.size(&x.dims[*axis]), self.size(length));
            ends[*axis] = self.sub(&then, &now);
            dims[*axis] = length.clone();
        }
        let starts = self.ints(&[x.rank()], &vec![0; x.rank()]);
        let parts: Vec<&Value> = std::iter::once(&starts).chain(&ends).collect();
        let pads = self.concat(&parts, 0);
        self.emit("Pad", &[x, &pads], vec![], x.element, dims)
    }

    /// The length of one axis as an integer tensor of shape \[1\].
    pub fn shape_of_axis(&mut self, x: &Value, axis: usize) -> Value {
        let attributes =
            vec![("start", Attribute::Int(axis as i64)), ("end", Attribute::Int(axis as i64 + 1))];
        self.emit("Shape", &[x], attributes, Element::I64, vec![Dim::Fixed(1)])
    }
}
