//! Operators of our own: a name, and a graph of others that says what it means.
//!
//! ONNX calls them functions (<https://github.com/onnx/onnx/blob/main/docs/IR.md#functions>). A library with
//! a kernel of that name may run it. In every other library the body takes the operator's place. Bodies use
//! operators of ONNX Runtime too. So a graph with such a function runs on every CPU that ONNX Runtime runs
//! on, and faster where there is a kernel.

use super::{Attribute, Builder, DOMAIN, Dim, Element, Graph, Source, Value};
use arrcoc_bundle::{Role, Target};

/// An operator and its meaning.
#[derive(Debug, Clone)]
pub struct Function {
    /// Attributes that a call must give; the body may refer to them with [`Attribute::Reference`] and
    /// [`Attribute::FloatReference`].
    pub attributes: Vec<&'static str>,
    /// The body, named as the operator; its inputs and outputs are the operator's. It has constants, and no
    /// weights.
    pub body: Graph,
}

impl Function {
    /// A function of `inputs`, whose axes name the sizes that the body may ask for; `write` makes the result.
    pub fn new(
        name: &'static str,
        attributes: &[&'static str],
        inputs: &[(&'static str, Element, Vec<Dim>)],
        write: impl FnOnce(&mut Builder, &[Value]) -> Value,
    ) -> Self {
        Self::of_several(name, attributes, inputs, |g, inputs| vec![("result", write(g, inputs))])
    }

    /// The same, of several results with their names.
    pub fn of_several(
        name: &'static str,
        attributes: &[&'static str],
        inputs: &[(&'static str, Element, Vec<Dim>)],
        write: impl FnOnce(&mut Builder, &[Value]) -> Vec<(&'static str, Value)>,
    ) -> Self {
        let mut builder = Builder::new(name, Role::Projector, name, Target::Cpu);
        let inputs: Vec<Value> =
            inputs.iter().map(|(name, element, dims)| builder.input(*name, *element, dims.clone())).collect();
        for (name, result) in write(&mut builder, &inputs) {
            builder.bare_output(name, &result, result.dims.clone());
        }
        let body = builder.finish();
        let constant = body.initializers.iter().all(|tensor| matches!(tensor.source, Source::Data(_)));
        assert!(constant, "function `{name}` has weights");
        Self { attributes: attributes.to_vec(), body }
    }

    /// The operator's name.
    pub fn name(&self) -> &'static str {
        self.body.name
    }
}

impl Graph {
    /// Adds a function, unless it is there already: one name has one meaning in a graph.
    pub fn define(&mut self, function: Function) {
        match self.functions.iter().find(|known| known.name() == function.name()) {
            Some(known) => assert_eq!(
                format!("{known:?}"),
                format!("{function:?}"),
                "graph `{}` knows another `{}`",
                self.name,
                function.name()
            ),
            None => self.functions.push(function),
        }
    }
}

impl Builder {
    /// Calls a function, whose result is floats of shape `dims`.
    pub fn call(
        &mut self,
        function: Function,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute)>,
        dims: Vec<Dim>,
    ) -> Value {
        self.call_of_several(function, inputs, attributes, vec![(Element::F32, dims)]).remove(0)
    }

    /// Calls a function that has several results, of these types and shapes.
    pub fn call_of_several(
        &mut self,
        function: Function,
        inputs: &[&Value],
        attributes: Vec<(&'static str, Attribute)>,
        outputs: Vec<(Element, Vec<Dim>)>,
    ) -> Vec<Value> {
        let name = function.name();
        self.graph.define(function);
        let inputs: Vec<_> = inputs.iter().map(|&value| Some(value)).collect();
        self.emit_in(DOMAIN, name, &inputs, attributes, outputs.into_iter().map(Some).collect())
    }
}
