//! Python's values, as far as templates meet them.

use std::cell::{Cell, RefCell};
use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::Arc;

use super::Failure;
use super::ast::{Macro, Name};
use super::meter::{ALLOCATION, Meter, PLACE};
use super::said::Text;

/// Places in a list that a pair takes, about: its own, and what it is made of.
pub(super) const PAIR: usize = 5;

// What the meter takes for a value's place.
const _: () = assert!(size_of::<Value>() <= PLACE);

/// Most levels of lists and dictionaries inside each other.
pub(super) const NESTING: u8 = 100;

#[derive(Clone)]
pub(crate) enum Value {
    /// With what is to be said when it is used.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(Text),
    /// What the filter `safe` makes of a string: whatever is put together with it is escaped, which no
    /// template wants and nothing here does. It can be printed and asked about.
    Markup(Text),
    List(Rc<Seq>),
    Tuple(Rc<Seq>),
    Dict(Rc<Dict>),
    /// What `keys`, `values` and `items` of a dictionary return; with Python's name for it.
    View(&'static str, Rc<Seq>),
    /// A generator: gone when it has been read once.
    Generator(Rc<RefCell<Option<Rc<Seq>>>>),
    /// Start, length and step.
    Range(i64, i64, i64),
    Namespace(Rc<RefCell<Vec<(Text, Value)>>>),
    Loop(Rc<Loop>),
    Macro(Rc<Closure>),
    Function(Function),
    Method(Rc<(Value, Name)>),
}

/// Values in order.
#[derive(Default)]
pub(crate) struct Seq {
    pub(super) items: Vec<Value>,
    extent: Extent,
}

/// Entries in the order in which they came.
#[derive(Default)]
pub(crate) struct Dict {
    pub(super) entries: Vec<(Value, Value)>,
    extent: Extent,
}

/// How much there is in a value: a list that holds the same list twice has twice as much in it.
#[derive(Debug, Clone, Copy, Default)]
struct Extent {
    /// Levels inside each other.
    depth: u8,
    /// Values of all levels.
    size: u64,
}

/// Most values in a value.
const LARGEST: u64 = 1 << 20;

/// The variable `loop`.
pub(crate) struct Loop {
    pub(super) items: Rc<Seq>,
    pub(super) index: Cell<usize>,
    pub(super) changed: RefCell<Option<Vec<Value>>>,
}

/// Variables, and the scope around them.
pub(crate) struct Scope {
    variables: RefCell<Vec<(Name, Value)>>,
    parent: Option<Rc<Scope>>,
}

impl Scope {
    pub(super) fn new(parent: Option<Rc<Self>>) -> Rc<Self> {
        Rc::new(Self { variables: RefCell::default(), parent })
    }

    pub(super) fn set(&self, name: &Name, value: Value) {
        let mut variables = self.variables.borrow_mut();
        match variables.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => *old = value,
            None => variables.push((Arc::clone(name), value)),
        }
    }

    pub(super) fn get(&self, name: &str) -> Option<Value> {
        let mut scope = Some(self);
        while let Some(here) = scope {
            if let Some((_, value)) = here.variables.borrow().iter().find(|(known, _)| &**known == name) {
                return Some(value.clone());
            }
            scope = here.parent.as_deref();
        }
        None
    }

    /// Forgets all variables: macros that hold on to their scope are let go.
    pub(super) fn clear(&self) {
        self.variables.borrow_mut().clear();
    }
}

/// A macro with the variables that it sees.
pub(crate) struct Closure {
    pub(super) declaration: Arc<Macro>,
    pub(super) scope: Rc<Scope>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Range,
    Dict,
    Namespace,
    RaiseException,
    StrftimeNow,
}

impl Seq {
    pub(super) fn new(items: Vec<Value>) -> Result<Rc<Self>, Failure> {
        let extent = extent(items.iter(), 0)?;
        Ok(Rc::new(Self { items, extent }))
    }
}

impl Dict {
    pub(super) fn new(entries: Vec<(Value, Value)>) -> Result<Rc<Self>, Failure> {
        // Keys are looked for one by one.
        let looks = (entries.len() as u64).saturating_mul(entries.len() as u64) / 16;
        let extent = extent(entries.iter().flat_map(|(key, value)| [key, value]), looks)?;
        Ok(Rc::new(Self { entries, extent }))
    }

    pub(super) fn get(&self, key: &Value) -> Option<&Value> {
        self.entries.iter().find(|(found, _)| same(found, key)).map(|(_, value)| value)
    }

    pub(super) fn get_str(&self, key: &str) -> Option<&Value> {
        let is_key = |found: &Value| matches!(found, Value::Str(text) if text.as_str() == key);
        self.entries.iter().find(|(found, _)| is_key(found)).map(|(_, value)| value)
    }
}

/// How much there is in a value made of these.
fn extent<'a>(values: impl Iterator<Item = &'a Value>, own: u64) -> Result<Extent, Failure> {
    let mut extent = Extent { depth: 0, size: 1 + own };
    for value in values {
        extent.depth = extent.depth.max(value.depth());
        extent.size = extent.size.saturating_add(value.size());
    }
    if extent.depth >= NESTING {
        return Err(Failure::new("lists are nested too deeply, or hold a namespace, a loop or a macro"));
    }
    if extent.size > LARGEST {
        return Err(Failure::exhausted("values"));
    }
    Ok(Extent { depth: extent.depth + 1, ..extent })
}

/// Python's `str.isspace`.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\x1c'..='\x1f')
}

impl Value {
    pub(super) fn own(text: &str) -> Self {
        Self::Str(Text::own(text))
    }

    /// A value that nobody gave.
    pub(super) fn undefined(name: &str) -> Self {
        Self::Undefined(format!("`{name:.80}` is undefined").into())
    }

    pub(super) fn depth(&self) -> u8 {
        match self {
            Self::List(seq) | Self::Tuple(seq) | Self::View(_, seq) => seq.extent.depth,
            Self::Dict(dict) => dict.extent.depth,
            Self::Generator(seq) => seq.borrow().as_ref().map_or(1, |seq| seq.extent.depth),
            // These can change, and could come to hold themselves.
            Self::Namespace(_) | Self::Loop(_) | Self::Macro(_) => NESTING,
            Self::Method(of) => of.0.depth().saturating_add(1),
            _ => 0,
        }
    }

    /// Values in this one, itself included: about how much work a look at all of it is.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::List(seq) | Self::Tuple(seq) | Self::View(_, seq) => seq.extent.size,
            Self::Dict(dict) => dict.extent.size,
            Self::Generator(seq) => seq.borrow().as_ref().map_or(1, |seq| seq.extent.size),
            Self::Str(text) | Self::Markup(text) => 1 + text.as_str().len() as u64 / 64,
            _ => 1,
        }
    }

    pub(super) fn list(items: Vec<Self>) -> Result<Self, Failure> {
        Ok(Self::List(Seq::new(items)?))
    }

    pub(super) fn tuple(items: Vec<Self>) -> Result<Self, Failure> {
        Ok(Self::Tuple(Seq::new(items)?))
    }

    pub(super) fn dict(entries: Vec<(Self, Self)>) -> Result<Self, Failure> {
        Ok(Self::Dict(Dict::new(entries)?))
    }

    pub(super) fn generator(items: Vec<Self>) -> Result<Self, Failure> {
        Ok(Self::Generator(Rc::new(RefCell::new(Some(Seq::new(items)?)))))
    }

    /// Python's name of the type.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "Undefined",
            Self::None => "NoneType",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Str(_) => "str",
            Self::Markup(_) => "Markup",
            Self::List(_) => "list",
            Self::Tuple(_) => "tuple",
            Self::Dict(_) => "dict",
            Self::View(name, _) => name,
            Self::Generator(_) => "generator",
            Self::Range(..) => "range",
            Self::Namespace(_) => "Namespace",
            Self::Loop(_) => "LoopContext",
            Self::Macro(_) => "Macro",
            Self::Function(_) | Self::Method(_) => "function",
        }
    }

    /// What an undefined value says where it is used.
    pub(super) fn require(&self) -> Result<(), Failure> {
        match self {
            Self::Undefined(message) => Err(Failure::new(&**message)),
            _ => Ok(()),
        }
    }

    pub(super) fn truthy(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Str(text) | Self::Markup(text) => !text.as_str().is_empty(),
            Self::List(seq) | Self::Tuple(seq) | Self::View(_, seq) => !seq.items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            Self::Range(_, length, _) => *length > 0,
            _ => true,
        }
    }

    pub(super) fn as_int(&self) -> Option<i64> {
        match self {
            Self::Int(value) => Some(*value),
            Self::Bool(value) => Some(i64::from(*value)),
            _ => None,
        }
    }

    pub(super) fn as_float(&self) -> Option<f64> {
        match self {
            Self::Float(value) => Some(*value),
            other => other.as_int().map(|value| value as f64),
        }
    }

    /// Python's `len(value)`.
    pub(super) fn length(&self) -> Result<usize, Failure> {
        Ok(match self {
            Self::Str(text) | Self::Markup(text) => text.as_str().chars().count(),
            Self::List(seq) | Self::Tuple(seq) | Self::View(_, seq) => seq.items.len(),
            Self::Dict(dict) => dict.entries.len(),
            Self::Range(_, length, _) => *length as usize,
            Self::Undefined(_) => 0,
            Self::Loop(it) => it.items.items.len(),
            other => return Err(Failure::new(format!("a `{}` has no length", other.kind()))),
        })
    }

    /// The items that a loop over the value meets. A list that has to be made for it is paid for.
    pub(super) fn iterate(&self, meter: &Meter) -> Result<Rc<Seq>, Failure> {
        match self {
            Self::List(seq) | Self::Tuple(seq) | Self::View(_, seq) => Ok(Rc::clone(seq)),
            Self::Undefined(_) => Ok(Rc::default()),
            Self::Generator(seq) => Ok(seq.borrow_mut().take().unwrap_or_default()),
            Self::Dict(dict) => {
                meter.items(dict.entries.len())?;
                Seq::new(dict.entries.iter().map(|(key, _)| key.clone()).collect())
            }
            Self::Range(start, length, step) => {
                meter.items(usize::try_from(*length).unwrap_or(0))?;
                Seq::new((0..*length).map(|at| Self::Int(start + at * step)).collect())
            }
            Self::Str(text) => {
                meter.step(self.size())?;
                let length = text.as_str().chars().count();
                if length as u64 > LARGEST {
                    return Err(Failure::exhausted("values"));
                }
                meter.items(length)?;
                meter.bytes(length * ALLOCATION)?;
                let chars = text.as_str().char_indices();
                Seq::new(chars.map(|(at, c)| Self::Str(text.slice(at..at + c.len_utf8()))).collect())
            }
            other => Err(Failure::new(format!("a `{}` cannot be looped over", other.kind()))),
        }
    }
}

/// Python's `a == b`.
pub(super) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Undefined(_), Value::Undefined(_)) | (Value::None, Value::None) => true,
        (Value::Str(a) | Value::Markup(a), Value::Str(b) | Value::Markup(b)) => a == b,
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            Rc::ptr_eq(a, b)
                || a.items.len() == b.items.len() && a.items.iter().zip(&b.items).all(|(a, b)| same(a, b))
        }
        (Value::Dict(a), Value::Dict(b)) => {
            Rc::ptr_eq(a, b)
                || a.entries.len() == b.entries.len()
                    && a.entries.iter().all(|(key, value)| b.get(key).is_some_and(|found| same(found, value)))
        }
        (Value::Range(a, n, s), Value::Range(b, m, t)) => {
            n == m && (*n == 0 || a == b && (*n == 1 || s == t))
        }
        (Value::Namespace(a), Value::Namespace(b)) => Rc::ptr_eq(a, b),
        (Value::Macro(a), Value::Macro(b)) => Rc::ptr_eq(a, b),
        _ => match (a.as_int(), b.as_int()) {
            (Some(a), Some(b)) => a == b,
            _ => matches!((a.as_float(), b.as_float()), (Some(a), Some(b)) if a == b),
        },
    }
}

/// Python's order of two values, where they have one.
pub(super) fn order(a: &Value, b: &Value) -> Result<Option<Ordering>, Failure> {
    a.require()?;
    b.require()?;
    match (a, b) {
        (Value::Str(a), Value::Str(b)) => Ok(Some(a.as_str().cmp(b.as_str()))),
        (Value::List(a), Value::List(b)) | (Value::Tuple(a), Value::Tuple(b)) => {
            for (a, b) in a.items.iter().zip(&b.items) {
                if !same(a, b) {
                    return order(a, b);
                }
            }
            Ok(Some(a.items.len().cmp(&b.items.len())))
        }
        _ => match (a.as_int(), b.as_int(), a.as_float(), b.as_float()) {
            (Some(a), Some(b), ..) => Ok(Some(a.cmp(&b))),
            (.., Some(a), Some(b)) => Ok(a.partial_cmp(&b)),
            _ => Err(Failure::new(format!("`{}` and `{}` have no order", a.kind(), b.kind()))),
        },
    }
}

/// Keys of dictionaries must never change.
pub(super) fn hashable(key: &Value) -> Result<(), Failure> {
    match key {
        Value::List(_) | Value::Dict(_) => Err(Failure::new(format!("a `{}` cannot be a key", key.kind()))),
        Value::Tuple(seq) => seq.items.iter().try_for_each(hashable),
        _ => Ok(()),
    }
}
