//! Many cases of mutated input, the same with the same seed: what the crates' fuzz tests are made of.
//!
//! `ARRCOC_FUZZ_CASES` is how many (20,000 unless set), `ARRCOC_FUZZ_SEED` where the random choices begin
//! (1), and `ARRCOC_FUZZ_CASE` runs one case alone. A case that fails prints the last two.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use serde_json::{Value, json};

/// Cases of a target in a test.
const CASES: u64 = 20_000;
/// Longest error, bytes.
const LONGEST: usize = 2048;
/// Whole numbers at which something changes.
const NUMBERS: [i64; 14] =
    [0, 1, -1, 2, 7, 64, 255, 4096, 65_536, i32::MAX as i64, u32::MAX as i64, 1 << 53, i64::MAX, i64::MIN];

/// Runs `case` with a mutator for each number of a case.
///
/// # Panics
/// When a case does, or a variable holds no number.
#[allow(clippy::print_stderr)]
pub fn cases(name: &str, mut case: impl FnMut(&mut Mutator)) {
    let number = |variable: &str| {
        let text = std::env::var(variable).ok()?;
        let number = text.parse::<u64>();
        Some(number.unwrap_or_else(|error| panic!("{variable}: expected a number, found `{text}`: {error}")))
    };
    let seed = number("ARRCOC_FUZZ_SEED").unwrap_or(1);
    let range = match number("ARRCOC_FUZZ_CASE") {
        Some(one) => one..one + 1,
        None => 0..number("ARRCOC_FUZZ_CASES").unwrap_or(CASES),
    };
    for index in range {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(&mut Mutator::of(seed, index))));
        if let Err(panic) = outcome {
            eprintln!("{name}: this case again: ARRCOC_FUZZ_SEED={seed} ARRCOC_FUZZ_CASE={index}");
            resume_unwind(panic);
        }
    }
}

/// Fails unless an error can be shown on a terminal and kept in a log: short, one line, no control
/// characters.
///
/// # Panics
/// When it is not.
pub fn assert_presentable(error: &str) {
    assert!(!error.is_empty(), "an error without words");
    assert!(
        error.len() <= LONGEST,
        "an error of {} bytes: {}",
        error.len(),
        error.chars().take(300).collect::<String>()
    );
    assert!(!error.contains(char::is_control), "control characters in {error:?}");
}

/// Random choices, and what they make of sound input.
#[derive(Debug, Clone)]
pub struct Mutator(u64);

impl Mutator {
    /// The choices of one case.
    pub fn of(seed: u64, case: u64) -> Self {
        let mut mutator = Self(seed ^ case.wrapping_mul(0xd134_2543_de82_ef95));
        mutator.next();
        mutator
    }

    /// SplitMix64 (Steele et al. 2014).
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; 0 where that is 0.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % (end as u64).max(1)) as usize
    }

    /// True once in this many times.
    pub fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// One of several.
    ///
    /// # Panics
    /// When there is none.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    /// Changes bytes: some flipped, cut, doubled, inserted, or replaced by a word of `dictionary`.
    pub fn bytes(&mut self, sound: &[u8], dictionary: &[&[u8]]) -> Vec<u8> {
        let mut bytes = sound.to_vec();
        for _ in 0..1 + self.below(4) {
            let (from, to) = (self.below(bytes.len() + 1), self.below(bytes.len() + 1));
            let (from, to) = (from.min(to), from.max(to).min(from.min(to) + 64));
            match self.below(6) {
                0 => bytes.truncate(from),
                1 => drop(bytes.drain(from..to)),
                2 => {
                    let again = bytes[from..to].to_vec();
                    bytes.splice(from..from, again);
                }
                3 if !dictionary.is_empty() => {
                    drop(bytes.splice(from..from, self.pick(dictionary).iter().copied()))
                }
                4 if !dictionary.is_empty() => {
                    drop(bytes.splice(from..to, self.pick(dictionary).iter().copied()))
                }
                _ => {
                    if let Some(byte) = bytes.get_mut(from) {
                        *byte = self.next() as u8;
                    }
                }
            }
        }
        bytes
    }

    /// The same with text, which stays text.
    pub fn text(&mut self, sound: &str, dictionary: &[&str]) -> String {
        let words: Vec<&[u8]> = dictionary.iter().map(|word| word.as_bytes()).collect();
        String::from_utf8_lossy(&self.bytes(sound.as_bytes(), &words)).into_owned()
    }

    /// Changes one to three places of a JSON value: another value, another type, a key gone, renamed or
    /// doubled.
    pub fn json(&mut self, sound: &Value) -> Value {
        let mut value = sound.clone();
        for _ in 0..1 + self.below(3) {
            let mut place = self.below(count(&value));
            if let Some(node) = nth(&mut value, &mut place) {
                self.change(node);
            }
        }
        value
    }

    fn change(&mut self, node: &mut Value) {
        match node {
            Value::Object(fields) if !fields.is_empty() && self.once_in(2) => {
                let key = fields.keys().nth(self.below(fields.len())).cloned().unwrap_or_default();
                match self.below(3) {
                    0 => drop(fields.remove(&key)),
                    1 => {
                        let field = fields.remove(&key).unwrap_or_default();
                        fields.insert(self.text(&key, &["_", "x", "\u{1b}"]), field);
                    }
                    _ => drop(fields.insert(format!("{key}_"), self.value())),
                }
            }
            Value::Array(items) if !items.is_empty() && self.once_in(2) => {
                let at = self.below(items.len());
                match self.below(3) {
                    0 => drop(items.remove(at)),
                    1 => items.insert(at, items[at].clone()),
                    _ => items.insert(at, self.value()),
                }
            }
            Value::String(text) if self.once_in(2) => {
                *text = self.text(text, &["\0", "\u{1b}[31m", "<|im_end|>", "\n", "é"])
            }
            Value::Number(_) if self.once_in(2) => *node = json!(*self.pick(&NUMBERS)),
            node if self.once_in(5) => *node = json!([node.take()]),
            node => *node = self.value(),
        }
    }

    /// A value such as no place expects.
    fn value(&mut self) -> Value {
        match self.below(12) {
            0 => Value::Null,
            1 => json!(self.once_in(2)),
            2 => json!(*self.pick(&NUMBERS)),
            3 => json!(*self.pick(&[0.5, -0.0, 1e300, 5e-324, f64::MAX])),
            4 => json!(""),
            5 => json!("\u{1b}]0;x\u{7}\r\n".repeat(1 + self.below(2000))),
            6 => json!("é".repeat(1 + self.below(3000))),
            7 => json!([]),
            8 => json!({}),
            9 => json!(vec![Value::Null; self.below(300)]),
            10 => (0..self.below(100)).fold(Value::Null, |inner, _| json!([inner])),
            _ => json!({"a": {"b": [1, "x", null]}}),
        }
    }
}

/// Values in a value, itself among them.
fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(fields) => fields.values().map(count).sum(),
        _ => 0,
    }
}

/// The value at a place of this order.
fn nth<'a>(value: &'a mut Value, place: &mut usize) -> Option<&'a mut Value> {
    if *place == 0 {
        return Some(value);
    }
    *place -= 1;
    match value {
        Value::Array(items) => items.iter_mut().find_map(|item| nth(item, place)),
        Value::Object(fields) => fields.values_mut().find_map(|field| nth(field, place)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_the_same_again() {
        let sound = json!({"a": [1, 2, {"b": "text"}], "c": null});
        let run = |case| Mutator::of(3, case).json(&sound);
        assert!((0..200).all(|case| run(case) == run(case)));
        let different = (0..200).filter(|case| run(*case) != sound).count();
        assert!(different > 150, "{different} of 200 cases were changed");
    }

    #[test]
    fn every_place_is_reached() {
        let mut value = json!({"a": [1, {"b": 2}], "c": 3});
        assert_eq!(count(&value), 6);
        let places: Vec<Value> =
            (0..7).filter_map(|place| nth(&mut value, &mut { place }).cloned()).collect();
        assert_eq!(places[1..], [json!([1, {"b": 2}]), json!(1), json!({"b": 2}), json!(2), json!(3)]);
    }

    #[test]
    #[should_panic(expected = "control characters")]
    fn an_error_with_an_escape_is_not_presentable() {
        assert_presentable("found `\u{1b}[31m`");
    }
}
