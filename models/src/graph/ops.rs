//! One method per ONNX operator: it checks its inputs, works out the result's shape and adds the node.
//!
//! Standard operators follow <https://onnx.ai/onnx/operators/> at opset 18 and are unchanged at 21; those of ONNX Runtime
//! follow <https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md>.

use super::{Builder, Dim, Element, Value};

/// Domain of ONNX Runtime's own operators.
const MICROSOFT: &str = "com.microsoft";

/// A node attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// 64-bit integer.
    Int(i64),
    /// List of integers.
    Ints(Vec<i64>),
    /// 32-bit float.
    Float(f32),
}

macro_rules! unary {
    ($($(#[$doc:meta])* $name:ident = $operator:literal;)*) => { $(
        $(#[$doc])*
        pub fn $name(&mut self, x: &Value) -> Value {
            self.emit($operator, &[x], vec![], x.element, x.dims.clone())
        }
    )* };
}

macro_rules! binary {
    ($($(#[$doc:meta])* $name:ident = $operator:literal -> $element:expr;)*) => { $(
        $(#[$doc])*
        pub fn $name(&mut self, a: &Value, b: &Value) -> Value {
            let dims = self.broadcast(a, b);
            let element: Option<Element> = $element;
            self.emit($operator, &[a, b], vec![], element.unwrap_or(a.element), dims)
        }
    )* };
}

macro_rules! reduce {
    ($($(#[$doc:meta])* $name:ident = $operator:literal;)*) => { $(
        $(#[$doc])*
        pub fn $name(&mut self, x: &Value, axes: &[isize]) -> Value {
            self.reduce($operator, x, axes)
        }
    )* };
}

/// Elementwise operators.
impl Builder {
    unary! {
        /// |x|
        abs = "Abs";
        /// e^x
        exp = "Exp";
        /// Largest integer not above x.
        floor = "Floor";
        /// Gauss error function.
        erf = "Erf";
        /// Natural logarithm.
        log = "Log";
        /// -x
        neg = "Neg";
        /// max(x, 0)
        relu = "Relu";
        /// 1 / (1 + e^-x)
        sigmoid = "Sigmoid";
        /// -1, 0 or 1
        sign = "Sign";
        /// Square root.
        sqrt = "Sqrt";
        /// Hyperbolic tangent.
        tanh = "Tanh";
    }

    binary! {
        /// a + b
        add = "Add" -> None;
        /// a - b
        sub = "Sub" -> None;
        /// a * b
        mul = "Mul" -> None;
        /// a / b; integers round towards zero.
        div = "Div" -> None;
        /// a and b
        and = "And" -> None;
        /// a == b
        equal = "Equal" -> Some(Element::Bool);
        /// a < b
        less = "Less" -> Some(Element::Bool);
        /// a <= b
        less_or_equal = "LessOrEqual" -> Some(Element::Bool);
        /// The smaller of the two.
        min = "Min" -> None;
        /// The larger of the two.
        max = "Max" -> None;
    }

    /// `if condition { a } else { b }`, elementwise.
    pub fn select(&mut self, condition: &Value, a: &Value, b: &Value) -> Value {
        let ab = Value { dims: self.broadcast(a, b), ..a.clone() };
        let dims = self.broadcast(condition, &ab);
        self.emit("Where", &[condition, a, b], vec![], a.element, dims)
    }

    /// x + c
    pub fn add_scalar(&mut self, x: &Value, c: f32) -> Value {
        let c = self.float(c);
        self.add(x, &c)
    }

    /// x * c
    pub fn scale(&mut self, x: &Value, c: f32) -> Value {
        let c = self.float(c);
        self.mul(x, &c)
    }

    /// Converts the element type.
    pub fn cast(&mut self, x: &Value, to: Element) -> Value {
        let code = i64::from(super::proto::data_type(to));
        self.emit("Cast", &[x], vec![("to", Attribute::Int(code))], to, x.dims.clone())
    }

    fn broadcast(&self, a: &Value, b: &Value) -> Vec<Dim> {
        let rank = a.rank().max(b.rank());
        let one = Dim::Fixed(1);
        let at = |value: &Value, i: usize| {
            (i + value.rank()).checked_sub(rank).map_or(one.clone(), |i| value.dims[i].clone())
        };
        (0..rank)
            .map(|i| match (at(a, i), at(b, i)) {
                (x, y) if x == y || y == one => x,
                (x, y) if x == one => y,
                (x, y) => panic!("{}: cannot broadcast {x} with {y} on axis {i}", self.path("")),
            })
            .collect()
    }
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

/// Products, norms and convolutions.
impl Builder {
    /// Batched matrix product; leading axes broadcast.
    pub fn matmul(&mut self, a: &Value, b: &Value) -> Value {
        assert_eq!(a.dim(-1), b.dim(-2), "{}: inner sizes of MatMul", self.path(""));
        let outer = |value: &Value| Value { dims: value.dims[..value.rank() - 2].to_vec(), ..value.clone() };
        let mut dims = self.broadcast(&outer(a), &outer(b));
        dims.extend([a.dim(-2).clone(), b.dim(-1).clone()]);
        self.emit("MatMul", &[a, b], vec![], a.element, dims)
    }

    /// `x W^T + b` for x \[rows, in\] and W \[out, in\]: the weight lies in the file as it lies in the checkpoint.
    pub fn gemm(&mut self, x: &Value, weight: &Value, bias: Option<&Value>) -> Value {
        assert_eq!(x.rank(), 2, "{}: Gemm takes rows", self.path(""));
        assert_eq!(x.dim(1), weight.dim(1), "{}: inner sizes of Gemm", self.path(""));
        let dims = vec![x.dim(0).clone(), weight.dim(0).clone()];
        let inputs: Vec<_> = [Some(x), Some(weight), bias].into_iter().filter(Option::is_some).collect();
        let attributes = vec![("transB", Attribute::Int(1))];
        self.emit_in("", "Gemm", &inputs, attributes, vec![Some((x.element, dims))]).remove(0)
    }

    /// Convolution of x \[batch, in, spatial...\] with W \[out, in, kernel...\], the same padding on both sides.
    /// Without padding the kernel must tile the axis (a patch embedding); with it the size must be kept.
    pub fn conv(
        &mut self,
        x: &Value,
        weight: &Value,
        bias: Option<&Value>,
        stride: usize,
        padding: usize,
    ) -> Value {
        let spatial = x.rank() - 2;
        let mut dims = vec![x.dim(0).clone(), weight.dim(0).clone()];
        dims.extend(x.dims[2..].iter().map(|dim| if stride == 1 { dim.clone() } else { dim.over(stride) }));
        let kernel = weight.dims[2..].iter().map(|dim| dim.fixed().unwrap_or(1) as i64).collect();
        let attributes = vec![
            ("kernel_shape", Attribute::Ints(kernel)),
            ("pads", Attribute::Ints(vec![padding as i64; 2 * spatial])),
            ("strides", Attribute::Ints(vec![stride as i64; spatial])),
        ];
        let inputs: Vec<_> = [Some(x), Some(weight), bias].into_iter().filter(Option::is_some).collect();
        self.emit_in("", "Conv", &inputs, attributes, vec![Some((x.element, dims))]).remove(0)
    }

    /// LayerNormalization over the last axis, statistics in fp32.
    pub fn layer_normalization(&mut self, x: &Value, scale: &Value, bias: &Value, epsilon: f32) -> Value {
        let attributes = vec![
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(epsilon)),
            ("stash_type", Attribute::Int(1)),
        ];
        self.emit("LayerNormalization", &[x, scale, bias], attributes, x.element, x.dims.clone())
    }
}

/// Shapes and indices.
impl Builder {
    /// Changes the shape and keeps the order of elements. Sizes that `x` has in the same place are copied by the operator
    /// and one more may be left to it; only what remains is computed.
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

/// Inputs of [`Builder::group_query_attention`].
#[derive(Debug)]
pub struct GroupQueryAttention<'a> {
    /// \[batch, seq, heads * head_dim\], not yet rotated.
    pub query: &'a Value,
    /// \[batch, seq, kv_heads * head_dim\], not yet rotated.
    pub key: &'a Value,
    /// \[batch, seq, kv_heads * head_dim\].
    pub value: &'a Value,
    /// \[batch, kv_heads, past, head_dim\].
    pub past_key: &'a Value,
    /// \[batch, kv_heads, past, head_dim\].
    pub past_value: &'a Value,
    /// Length of each row minus one, \[batch\].
    pub seqlens_k: &'a Value,
    /// Longest length, a scalar.
    pub total_sequence_length: &'a Value,
    /// Cosines and sines, \[positions, head_dim / 2\] each.
    pub rotary: (&'a Value, &'a Value),
    /// Position of each token, \[batch, seq\].
    pub position_ids: &'a Value,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Factor on the products.
    pub scale: f32,
}

/// ONNX Runtime's fused operators; only for [`crate::Target::Cpu`].
impl Builder {
    /// `com.microsoft.MultiHeadAttention`, without mask: Q and K \[batch, seq, heads * width\], V may have another width.
    pub fn multi_head_attention(
        &mut self,
        q: &Value,
        k: &Value,
        v: &Value,
        heads: usize,
        scale: f32,
    ) -> Value {
        let attributes =
            vec![("num_heads", Attribute::Int(heads as i64)), ("scale", Attribute::Float(scale))];
        let dims = vec![q.dim(0).clone(), q.dim(1).clone(), v.dim(2).clone()];
        let outputs = vec![Some((q.element, dims))];
        let inputs = [Some(q), Some(k), Some(v)];
        self.emit_in(MICROSOFT, "MultiHeadAttention", &inputs, attributes, outputs).remove(0)
    }

    /// `com.microsoft.GroupQueryAttention` with rotary embedding inside and the cache extended in place: the attention's
    /// output, and the present keys and values under `present` (a graph's outputs).
    pub fn group_query_attention(&mut self, a: &GroupQueryAttention<'_>, total: &Dim) -> [Value; 3] {
        let attributes = vec![
            ("num_heads", Attribute::Int(a.heads as i64)),
            ("kv_num_heads", Attribute::Int(a.kv_heads as i64)),
            ("scale", Attribute::Float(a.scale)),
            ("do_rotary", Attribute::Int(1)),
            ("rotary_interleaved", Attribute::Int(0)),
        ];
        let mut present = a.past_key.dims.clone();
        present[2] = total.clone();
        let outputs = vec![
            Some((Element::F32, a.query.dims.clone())),
            Some((Element::F32, present.clone())),
            Some((Element::F32, present)),
        ];
        let inputs = [
            Some(a.query),
            Some(a.key),
            Some(a.value),
            Some(a.past_key),
            Some(a.past_value),
            Some(a.seqlens_k),
            Some(a.total_sequence_length),
            Some(a.rotary.0),
            Some(a.rotary.1),
            Some(a.position_ids),
        ];
        let outputs = self.emit_in(MICROSOFT, "GroupQueryAttention", &inputs, attributes, outputs);
        outputs.try_into().unwrap_or_else(|_| unreachable!("three outputs were declared"))
    }

    /// `SimplifiedLayerNormalization`: x / rms(x) * scale over the last axis.
    pub fn simplified_layer_normalization(&mut self, x: &Value, scale: &Value, epsilon: f32) -> Value {
        let attributes = vec![
            ("axis", Attribute::Int(-1)),
            ("epsilon", Attribute::Float(epsilon)),
            ("stash_type", Attribute::Int(1)),
        ];
        self.emit("SimplifiedLayerNormalization", &[x, scale], attributes, x.element, x.dims.clone())
    }

    /// `com.microsoft.SkipSimplifiedLayerNormalization`: normalises x + skip; returns the norm and the sum.
    pub fn skip_simplified_layer_normalization(
        &mut self,
        x: &Value,
        skip: &Value,
        scale: &Value,
        epsilon: f32,
    ) -> (Value, Value) {
        let attributes = vec![("epsilon", Attribute::Float(epsilon))];
        let output = Some((x.element, x.dims.clone()));
        let inputs = [Some(x), Some(skip), Some(scale)];
        let outputs = vec![output.clone(), None, None, output];
        let mut outputs =
            self.emit_in(MICROSOFT, "SkipSimplifiedLayerNormalization", &inputs, attributes, outputs);
        let sum = outputs.remove(1);
        (outputs.remove(0), sum)
    }

    /// `Gelu` of opset 20, exact.
    pub fn gelu_fused(&mut self, x: &Value) -> Value {
        self.emit("Gelu", &[x], vec![], x.element, x.dims.clone())
    }

    /// `com.microsoft.QuickGelu`: x * sigmoid(alpha * x).
    pub fn quick_gelu_fused(&mut self, x: &Value, alpha: f32) -> Value {
        let outputs = vec![Some((x.element, x.dims.clone()))];
        let attributes = vec![("alpha", Attribute::Float(alpha))];
        self.emit_in(MICROSOFT, "QuickGelu", &[Some(x)], attributes, outputs).remove(0)
    }
}
