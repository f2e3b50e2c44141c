//! Regular expressions, as every dialect reads them.

use llguidance::derivre::RegexBuilder;
use llguidance::regex_to_lark;
use regex_syntax::hir::{Class, Hir, HirKind, Repetition};

use super::error::said;

/// Reads an expression. `\d` and `\w` are ASCII to some and Unicode to others: what is read fits both.
///
/// # Errors
/// What is wrong with it, or cannot be kept: look-around, word boundaries, back references.
pub(super) fn parse(expression: &str) -> Result<Hir, String> {
    let read = |expression: &str| regex_syntax::parse(expression).map_err(said);
    let (unicode, ascii) = (read(expression)?, read(&regex_to_lark(expression, "dw"))?);
    let both = both(&ascii, &unicode);
    RegexBuilder::new().mk_regex_for_serach(&both.to_string()).map_err(said)?;
    Ok(both)
}

/// What fits both readings, class by class, where they have the same parts; the first one elsewhere. Groups
/// are not captured: the library gives one of the name `stop` a meaning of its own.
fn both(one: &Hir, other: &Hir) -> Hir {
    let all =
        |one: &[Hir], other: &[Hir]| one.iter().zip(other).map(|(one, other)| both(one, other)).collect();
    match (one.kind(), other.kind()) {
        (HirKind::Class(Class::Unicode(one)), HirKind::Class(Class::Unicode(other))) => {
            let mut class = one.clone();
            class.intersect(other);
            Hir::class(Class::Unicode(class))
        }
        (HirKind::Repetition(one), HirKind::Repetition(other)) => {
            Hir::repetition(Repetition { sub: Box::new(both(&one.sub, &other.sub)), ..one.clone() })
        }
        (HirKind::Capture(one), HirKind::Capture(other)) => both(&one.sub, &other.sub),
        (HirKind::Concat(one), HirKind::Concat(other)) if one.len() == other.len() => {
            Hir::concat(all(one, other))
        }
        (HirKind::Alternation(one), HirKind::Alternation(other)) if one.len() == other.len() => {
            Hir::alternation(all(one, other))
        }
        _ => map(one, &|class| class),
    }
}

/// The same expression, without captures, and each class as `change` has it.
pub(super) fn map(expression: &Hir, change: &impl Fn(Class) -> Class) -> Hir {
    let all = |parts: &[Hir]| parts.iter().map(|part| map(part, change)).collect();
    match expression.kind() {
        HirKind::Empty => Hir::empty(),
        HirKind::Literal(literal) => Hir::literal(literal.0.clone()),
        HirKind::Look(look) => Hir::look(*look),
        HirKind::Class(class) => Hir::class(change(class.clone())),
        HirKind::Repetition(repetition) => {
            let sub = Box::new(map(&repetition.sub, change));
            Hir::repetition(Repetition { sub, ..repetition.clone() })
        }
        HirKind::Capture(capture) => map(&capture.sub, change),
        HirKind::Concat(parts) => Hir::concat(all(parts)),
        HirKind::Alternation(parts) => Hir::alternation(all(parts)),
    }
}
