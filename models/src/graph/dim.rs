//! Sizes of axes: numbers known at export, named dynamic axes, and arithmetic over them.

use std::fmt;
use std::rc::Rc;

/// The size of one axis.
///
/// Two sizes are equal when they are written equally, so a network should derive a size in one way only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Dim {
    /// Known at export.
    Fixed(usize),
    /// A dynamic axis of the graph contract (`batch`, `seq`, ...), measured on the first input that carries
    /// it.
    Axis(&'static str),
    /// Product.
    Mul(Rc<Dim>, Rc<Dim>),
    /// Sum.
    Add(Rc<Dim>, Rc<Dim>),
    /// Quotient, rounded down.
    Div(Rc<Dim>, usize),
    /// Rounded up to a multiple.
    RoundUp(Rc<Dim>, usize),
    /// `2 * n - 1`: the number of relative positions on an axis of `n`.
    Relative(Rc<Dim>),
}

impl Dim {
    /// `self * other`.
    pub fn times(&self, other: impl Into<Dim>) -> Dim {
        match (self, other.into()) {
            (Dim::Fixed(a), Dim::Fixed(b)) => Dim::Fixed(a * b),
            (Dim::Fixed(1), other) => other,
            (_, Dim::Fixed(1)) => self.clone(),
            // Products lean to the left, as sums do.
            (_, Dim::Mul(a, b)) => self.times(&*a).times(&*b),
            (_, other) => Dim::Mul(Rc::new(self.clone()), Rc::new(other)),
        }
    }

    /// `self + other`.
    pub fn plus(&self, other: impl Into<Dim>) -> Dim {
        match (self, other.into()) {
            (Dim::Fixed(a), Dim::Fixed(b)) => Dim::Fixed(a + b),
            (Dim::Fixed(0), other) => other,
            (_, Dim::Fixed(0)) => self.clone(),
            // Sums lean to the left, so that a + (b + c) and (a + b) + c are written equally.
            (_, Dim::Add(a, b)) => self.plus(&*a).plus(&*b),
            (_, other) => Dim::Add(Rc::new(self.clone()), Rc::new(other)),
        }
    }

    /// `self / divisor`, rounded down.
    pub fn over(&self, divisor: usize) -> Dim {
        match self {
            Dim::Fixed(a) => Dim::Fixed(a / divisor),
            _ => Dim::Div(Rc::new(self.clone()), divisor),
        }
    }

    /// The next multiple of `step`.
    pub fn rounded_up(&self, step: usize) -> Dim {
        match self {
            Dim::Fixed(a) => Dim::Fixed(a.next_multiple_of(step)),
            _ => Dim::RoundUp(Rc::new(self.clone()), step),
        }
    }

    /// `2 * self - 1`.
    pub fn relative(&self) -> Dim {
        match self {
            Dim::Fixed(a) => Dim::Fixed(2 * a - 1),
            _ => Dim::Relative(Rc::new(self.clone())),
        }
    }

    /// The number when the axes have the sizes that `axis` gives; `None` where it does not know one.
    pub fn at(&self, axis: &impl Fn(&str) -> Option<usize>) -> Option<usize> {
        Some(match self {
            Dim::Fixed(n) => *n,
            Dim::Axis(name) => axis(name)?,
            Dim::Mul(a, b) => a.at(axis)? * b.at(axis)?,
            Dim::Add(a, b) => a.at(axis)? + b.at(axis)?,
            Dim::Div(a, divisor) => a.at(axis)? / divisor,
            Dim::RoundUp(a, step) => a.at(axis)?.next_multiple_of(*step),
            Dim::Relative(a) => 2 * a.at(axis)? - 1,
        })
    }

    /// The number, where it is known at export.
    pub fn fixed(&self) -> Option<usize> {
        match self {
            Dim::Fixed(n) => Some(*n),
            _ => None,
        }
    }
}

impl From<usize> for Dim {
    fn from(n: usize) -> Self {
        Dim::Fixed(n)
    }
}

impl From<&Dim> for Dim {
    fn from(dim: &Dim) -> Self {
        dim.clone()
    }
}

impl From<&'static str> for Dim {
    fn from(axis: &'static str) -> Self {
        Dim::Axis(axis)
    }
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Axis(name) => f.write_str(name),
            Dim::Mul(a, b) => write!(f, "{a}*{b}"),
            Dim::Add(a, b) => write!(f, "({a}+{b})"),
            Dim::Div(a, n) => write!(f, "{a}/{n}"),
            Dim::RoundUp(a, n) => write!(f, "ceil({a},{n})"),
            Dim::Relative(a) => write!(f, "(2*{a}-1)"),
        }
    }
}

/// Builds a shape from numbers, axis names and [`Dim`]s: `dims!["batch", 3, &height]`.
#[macro_export]
macro_rules! dims {
    ($($dim:expr),* $(,)?) => { vec![$($crate::graph::Dim::from($dim)),*] };
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sizes of every kind.
    fn sizes() -> Vec<Dim> {
        let (a, b) = (Dim::Axis("a"), Dim::Axis("b"));
        let two = a.plus(&b);
        let product = a.times(&b);
        vec![
            Dim::Fixed(0),
            Dim::Fixed(1),
            Dim::Fixed(7),
            a.over(2),
            b.rounded_up(4),
            a.relative(),
            product.plus(&two),
            two.times(&b),
            a,
            b,
            two,
            product,
        ]
    }

    /// The number at a = 5, b = 3.
    fn number(dim: &Dim) -> usize {
        dim.at(&|name| Some(if name == "a" { 5 } else { 3 })).expect("both axes are known")
    }

    #[test]
    fn sizes_are_numbers_once_the_axes_are() {
        for x in sizes() {
            assert_eq!(number(&x.over(2)), number(&x) / 2, "{x}");
            assert_eq!(number(&x.rounded_up(4)), number(&x).div_ceil(4) * 4, "{x}");
            if number(&x) > 0 {
                assert_eq!(number(&x.relative()), 2 * number(&x) - 1, "{x}");
            }
            for y in sizes() {
                assert_eq!(number(&x.plus(&y)), number(&x) + number(&y), "{x} + {y}");
                assert_eq!(number(&x.times(&y)), number(&x) * number(&y), "{x} * {y}");
            }
        }
    }

    #[test]
    fn neutral_numbers_leave_no_trace() {
        for x in sizes() {
            assert_eq!(x.plus(0), x);
            assert_eq!(Dim::Fixed(0).plus(&x), x);
            assert_eq!(x.times(1), x);
            assert_eq!(Dim::Fixed(1).times(&x), x);
        }
    }

    #[test]
    fn sums_and_products_are_written_alike_however_they_are_grouped() {
        for x in sizes() {
            for y in sizes() {
                for z in sizes() {
                    if [&x, &y, &z].iter().all(|dim| dim.fixed().is_none()) {
                        assert_eq!(x.plus(y.plus(&z)), x.plus(&y).plus(&z));
                        assert_eq!(x.times(y.times(&z)), x.times(&y).times(&z));
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_known_at_export_is_a_number_there() {
        let seven = Dim::Fixed(7);
        let known = [seven.plus(2), seven.times(3), seven.over(2), seven.rounded_up(4), seven.relative()];
        assert_eq!(known.map(|dim| dim.fixed()), [9, 21, 3, 8, 13].map(Some));
        assert_eq!(Dim::Axis("a").plus(2).fixed(), None);
    }

    #[test]
    fn an_unknown_axis_gives_no_number() {
        let only_a = |name: &str| (name == "a").then_some(5);
        let sum = Dim::Axis("a").plus("b");
        for dim in [sum.clone(), sum.times(2), sum.over(2), sum.rounded_up(2), sum.relative()] {
            assert_eq!(dim.at(&only_a), None, "{dim}");
        }
        assert_eq!(Dim::Axis("a").times(2).at(&only_a), Some(10));
    }

    #[test]
    fn names_in_graphs_say_how_a_size_is_made() {
        let a = Dim::Axis("a");
        assert_eq!(a.times(2).plus("b").to_string(), "(a*2+b)");
        assert_eq!(a.rounded_up(4).over(2).to_string(), "ceil(a,4)/2");
        assert_eq!(a.relative().to_string(), "(2*a-1)");
        assert_eq!(dims!["a", 3, &a], [a.clone(), Dim::Fixed(3), a]);
    }
}
