//! Operators that work element by element, with broadcasting.

use crate::graph::{Attribute, Builder, Dim, Element, Value, proto};

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
        let code = i64::from(proto::data_type(to));
        self.emit("Cast", &[x], vec![("to", Attribute::Int(code))], to, x.dims.clone())
    }

    pub(super) fn broadcast(&self, a: &Value, b: &Value) -> Vec<Dim> {
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
