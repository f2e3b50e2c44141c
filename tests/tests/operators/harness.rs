//! Arrays, cases, and how a case is run: a graph of one operator on a library, against plain loops.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use arrcoc_bundle::{Meaning, Role, Target};
use arrcoc_models::graph::{Builder, Dim, Element, Graph, Layout, Value};
use arrcoc_runtime::library::Library;
use arrcoc_runtime::tensor::{ElementType, Tensor};

/// Lengths of the dynamic axes `a` and `b`, one set per run of a graph: odd ones, ones, and some that differ.
pub(crate) const SIZES: [[usize; 2]; 3] = [[3, 5], [1, 1], [7, 2]];

/// Most that a float may be off, absolute for small numbers and relative for large ones. Libraries compute in
/// 32 bits, with approximations of functions that are good to a few units in the last place; the loops in 64
/// bits.
const CLOSE: f64 = 1e-5;

/// Numbers of a shape. 64-bit floats hold every number that the tests draw.
#[derive(Debug, Clone)]
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Vec<f64>,
}

impl Array {
    /// The array whose element at each place is what `at` says.
    pub(crate) fn of(shape: &[usize], mut at: impl FnMut(&[usize]) -> f64) -> Self {
        let mut place = vec![0; shape.len()];
        let mut numbers = Vec::new();
        for _ in 0..shape.iter().product::<usize>() {
            numbers.push(at(&place));
            for axis in (0..shape.len()).rev() {
                place[axis] += 1;
                if place[axis] < shape[axis] {
                    break;
                }
                place[axis] = 0;
            }
        }
        Self { shape: shape.to_vec(), numbers }
    }

    /// The element at a place of a larger array: axes are compared from the last, and those of length 1
    /// repeat.
    pub(crate) fn at(&self, place: &[usize]) -> f64 {
        let place = &place[place.len() - self.shape.len()..];
        let index = |sum, (&at, &length): (&usize, &usize)| sum * length + if length == 1 { 0 } else { at };
        self.numbers[place.iter().zip(&self.shape).fold(0, index)]
    }
}

/// What an input's numbers are drawn from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Draw {
    /// Floats between two bounds.
    Floats(f64, f64),
    /// Whole numbers from the first to the last.
    Whole(i64, i64),
}

/// An input of a graph, or a constant of it.
#[derive(Debug, Clone)]
pub(crate) struct Input {
    pub(crate) dims: Vec<Dim>,
    pub(crate) element: Element,
    pub(crate) draw: Draw,
    /// Weights are constants, and libraries may ask for that.
    pub(crate) constant: bool,
}

/// Floats from -3 to 3.
pub(crate) fn floats(dims: Vec<Dim>) -> Input {
    Input { dims, element: Element::F32, draw: Draw::Floats(-3.0, 3.0), constant: false }
}

/// Whole numbers of 64 bits.
pub(crate) fn whole(dims: Vec<Dim>, from: i64, to: i64) -> Input {
    Input { dims, element: Element::I64, draw: Draw::Whole(from, to), constant: false }
}

/// Truth values.
pub(crate) fn truths(dims: Vec<Dim>) -> Input {
    Input { dims, element: Element::Bool, draw: Draw::Whole(0, 1), constant: false }
}

impl Input {
    /// The same with other numbers.
    pub(crate) fn drawn(self, draw: Draw) -> Self {
        Self { draw, ..self }
    }

    /// The same as a constant of the graph.
    pub(crate) fn constant(self) -> Self {
        Self { constant: true, ..self }
    }
}

type Build = Box<dyn Fn(&mut Builder, &[Value]) -> Vec<Value>>;
type Loops = Box<dyn Fn(&[Array], [usize; 2]) -> Vec<Array>>;

/// One small graph, and what it must compute.
pub(crate) struct Case {
    /// The method of the builder.
    pub(crate) method: &'static str,
    /// What the graph is written for. Graphs for CPUs may hold operators that only ONNX Runtime has.
    pub(crate) target: Target,
    inputs: Vec<Input>,
    build: Build,
    loops: Loops,
}

impl Case {
    /// A case whose graph has several outputs, or depends on the lengths of the axes.
    pub(crate) fn of_several(
        method: &'static str,
        inputs: Vec<Input>,
        build: impl Fn(&mut Builder, &[Value]) -> Vec<Value> + 'static,
        loops: impl Fn(&[Array], [usize; 2]) -> Vec<Array> + 'static,
    ) -> Self {
        let (build, loops) = (Box::new(build), Box::new(loops));
        Self { method, target: Target::Portable, inputs, build, loops }
    }

    /// A case whose graph has one output.
    pub(crate) fn new(
        method: &'static str,
        inputs: Vec<Input>,
        build: impl Fn(&mut Builder, &[Value]) -> Value + 'static,
        loops: impl Fn(&[Array]) -> Array + 'static,
    ) -> Self {
        Self::of_several(method, inputs, move |g, x| vec![build(g, x)], move |x, _| vec![loops(x)])
    }

    /// The same for CPUs.
    pub(crate) fn for_cpus(self) -> Self {
        Self { target: Target::Cpu, ..self }
    }

    /// Builds, runs at all sizes, and compares.
    pub(crate) fn check(&self, library: &dyn Library) -> Result<()> {
        let mut random =
            Random(self.method.bytes().fold(1, |seed: u64, byte| seed.wrapping_mul(31) + u64::from(byte)));
        let constants: Vec<Option<Array>> =
            self.inputs.iter().map(|input| input.constant.then(|| random.draw(input, SIZES[0]))).collect();
        let dir = tempfile::tempdir()?;
        let path = write(self.graph(&constants), dir.path())?;
        let mut graph = library.load(self.method, &path)?;
        for sizes in SIZES {
            let drawn = self.inputs.iter().zip(&constants);
            let arrays: Vec<Array> = drawn
                .map(|(input, constant)| constant.clone().unwrap_or_else(|| random.draw(input, sizes)))
                .collect();
            let names: Vec<String> = (0..arrays.len()).map(|at| format!("x{at}")).collect();
            let mut given = Vec::new();
            for ((input, array), name) in self.inputs.iter().zip(&arrays).zip(&names) {
                if !input.constant {
                    given.push((name.as_str(), tensor(array, input.element)?));
                }
            }
            let found = graph.run(&given)?;
            let wanted = (self.loops)(&arrays, sizes);
            ensure!(found.len() == wanted.len(), "expected {} outputs, found {}", wanted.len(), found.len());
            for (at, wanted) in wanted.iter().enumerate() {
                let name = format!("y{at}");
                let found =
                    found.iter().find(|(output, _)| *output == name).context("an output is missing")?;
                compare(&found.1, wanted).with_context(|| format!("output {name} at a, b = {sizes:?}"))?;
            }
        }
        Ok(())
    }

    /// The graph. Truth values enter as floats and leave as such: they do not cross the library's border.
    fn graph(&self, constants: &[Option<Array>]) -> Graph {
        let mut g = Builder::new("operator", Role::Projector, self.method, self.target);
        let mut values = Vec::new();
        for (at, (input, constant)) in self.inputs.iter().zip(constants).enumerate() {
            values.push(match constant {
                Some(array) => {
                    let numbers: Vec<f32> = array.numbers.iter().map(|&x| x as f32).collect();
                    g.floats(&array.shape, &numbers)
                }
                None => g.input(format!("x{at}"), outside(input.element), input.dims.clone()),
            });
        }
        for (value, input) in values.iter_mut().zip(&self.inputs) {
            if value.element() != input.element {
                *value = g.cast(value, input.element);
            }
        }
        for (at, result) in (self.build)(&mut g, &values).into_iter().enumerate() {
            let result = match result.element() {
                Element::Bool => g.cast(&result, Element::F32),
                _ => result,
            };
            g.output(&format!("y{at}"), Meaning::Network, &result, result.dims().to_vec());
        }
        g.finish()
    }
}

/// The type in which an input enters a graph.
fn outside(element: Element) -> Element {
    if element == Element::Bool { Element::F32 } else { element }
}

fn write(graph: Graph, dir: &Path) -> Result<std::path::PathBuf> {
    let layout = Layout::new(&[graph]);
    ensure!(layout.data.is_empty(), "small graphs have their constants inside");
    let (name, bytes) = &layout.models[0];
    fs::write(dir.join(name), bytes)?;
    Ok(dir.join(name))
}

fn tensor(array: &Array, element: Element) -> Result<Tensor> {
    Ok(match element {
        Element::I64 => {
            Tensor::from_vec::<i64>(&array.shape, array.numbers.iter().map(|&x| x as i64).collect())?
        }
        Element::I32 => {
            Tensor::from_vec::<i32>(&array.shape, array.numbers.iter().map(|&x| x as i32).collect())?
        }
        _ => Tensor::from_vec::<f32>(&array.shape, array.numbers.iter().map(|&x| x as f32).collect())?,
    })
}

fn compare(found: &Tensor, wanted: &Array) -> Result<()> {
    ensure!(found.shape() == wanted.shape, "expected shape {:?}, found {:?}", wanted.shape, found.shape());
    let (numbers, close): (Vec<f64>, f64) = match found.element() {
        ElementType::I64 => (found.as_slice::<i64>()?.iter().map(|&x| x as f64).collect(), 0.0),
        ElementType::I32 => (found.as_slice::<i32>()?.iter().map(|&x| f64::from(x)).collect(), 0.0),
        _ => (found.as_slice::<f32>()?.iter().map(|&x| f64::from(x)).collect(), CLOSE),
    };
    for (at, (found, wanted)) in numbers.iter().zip(&wanted.numbers).enumerate() {
        let off = (found - wanted).abs();
        ensure!(off <= close * wanted.abs().max(1.0), "element {at}: expected {wanted}, found {found}");
    }
    Ok(())
}

/// A generator of numbers that are the same in every run (Marsaglia's xorshift64).
struct Random(u64);

impl Random {
    /// From 0 to below 1.
    fn next(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn draw(&mut self, input: &Input, [a, b]: [usize; 2]) -> Array {
        let length = |name: &str| Some(if name == "a" { a } else { b });
        let shape: Vec<usize> = input.dims.iter().map(|dim| dim.at(&length).expect("a or b")).collect();
        Array::of(&shape, |_| match input.draw {
            // Rounded to 32 bits, which the library is given.
            Draw::Floats(from, to) => f64::from((from + (to - from) * self.next()) as f32),
            Draw::Whole(from, to) => from as f64 + ((to - from + 1) as f64 * self.next()).floor(),
        })
    }
}
