//! Matrix products, convolution and the norm that every runtime has.

use crate::graph::{Attribute, Builder, Value};

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

    /// `x W^T + b` for x \[rows, in\] and W \[out, in\]: the weight lies in the file as it lies in the
    /// checkpoint.
    pub fn gemm(&mut self, x: &Value, weight: &Value, bias: Option<&Value>) -> Value {
        assert_eq!(x.rank(), 2, "{}: Gemm takes rows", self.path(""));
        assert_eq!(x.dim(1), weight.dim(1), "{}: inner sizes of Gemm", self.path(""));
        let dims = vec![x.dim(0).clone(), weight.dim(0).clone()];
        let inputs: Vec<_> = [Some(x), Some(weight), bias].into_iter().filter(Option::is_some).collect();
        let attributes = vec![("transB", Attribute::Int(1))];
        self.emit_in("", "Gemm", &inputs, attributes, vec![Some((x.element, dims))]).remove(0)
    }

    /// Convolution of x \[batch, in, spatial...\] with W \[out, in, kernel...\], the same padding on both
    /// sides. Without padding the kernel must tile the axis (a patch embedding); with it the size must be
    /// kept.
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
