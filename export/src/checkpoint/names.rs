//! Names of tensors: those in the files, and those that the networks use.

use std::collections::{BTreeMap, HashSet};

use super::{Checkpoint, CheckpointError, Tensor};

impl Checkpoint {
    /// Gives the tensors whose names begin with an old prefix the names that the networks use. `renames` are
    /// pairs of prefixes, the old one and the one that takes its place; the first that fits counts.
    ///
    /// The names in the files stay what [`Checkpoint::tensors`] and [`Checkpoint::digest`] go by.
    ///
    /// # Errors
    /// [`CheckpointError::SameName`] when two tensors would have one name.
    pub fn rename(&mut self, renames: &[(&str, &str)]) -> Result<(), CheckpointError> {
        let mut renamed: BTreeMap<String, String> = BTreeMap::new();
        for stored in self.tensors.keys() {
            let fitting = renames.iter().find_map(|(old, new)| Some((new, stored.strip_prefix(old)?)));
            let Some((new, rest)) = fitting else { continue };
            let name = format!("{new}{rest}");
            if let Some(first) = renamed.insert(name.clone(), stored.clone()) {
                return Err(CheckpointError::SameName { name, first, second: stored.clone() });
            }
        }
        let moved: HashSet<&String> = renamed.values().collect();
        let taken =
            renamed.iter().find(|(name, _)| self.tensors.contains_key(*name) && !moved.contains(name));
        if let Some((name, stored)) = taken {
            let (first, second) = (name.clone(), stored.clone());
            return Err(CheckpointError::SameName { name: name.clone(), first, second });
        }
        self.renamed = renamed;
        Ok(())
    }

    /// A tensor by the name that the networks use.
    pub fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.renamed.get(name) {
            Some(stored) => self.tensors.get(stored),
            None if self.renamed.values().any(|stored| stored == name) => None,
            None => self.tensors.get(name),
        }
    }

    /// Every tensor: the name that the networks use, and the one in the files.
    pub(crate) fn names(&self) -> impl Iterator<Item = (&str, &str)> {
        let renamed = self.renamed.iter().map(|(name, stored)| (name.as_str(), stored.as_str()));
        let moved: HashSet<&str> = self.renamed.values().map(String::as_str).collect();
        let kept = self.tensors.keys().map(String::as_str).filter(move |name| !moved.contains(name));
        kept.map(|name| (name, name)).chain(renamed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_first_prefix_that_fits_is_replaced_once() {
        let mut checkpoint =
            Checkpoint::of_tensors(&["model.text.norm", "model.norm", "lm_head", "visual.norm"]);
        let renames = [("model.text.", "text."), ("model.", "text.model."), ("visual.", "visual.")];
        checkpoint.rename(&renames).unwrap();
        let mut names: Vec<_> = checkpoint.names().collect();
        names.sort_unstable();
        let expected = [
            ("lm_head", "lm_head"),
            ("text.model.norm", "model.norm"),
            ("text.norm", "model.text.norm"),
            ("visual.norm", "visual.norm"),
        ];
        assert_eq!(names, expected);
        assert!(checkpoint.tensor("text.model.norm").is_some() && checkpoint.tensor("visual.norm").is_some());
        assert!(checkpoint.tensor("model.norm").is_none());
    }

    #[test]
    fn two_spellings_of_one_tensor_are_refused() {
        let error = |names, renames: &[(&str, &str)]| {
            Checkpoint::of_tensors(names).rename(renames).unwrap_err().to_string()
        };
        let text = error(&["a.w", "b.w"], &[("a.", "b.")]);
        assert!(text.contains("`b.w` and `a.w` are both `b.w`"), "{text}");
        error(&["a.w", "b.w"], &[("a.", "c."), ("b.", "c.")]);
        // What moves away leaves its name free.
        Checkpoint::of_tensors(&["a.w", "b.w"]).rename(&[("a.", "b."), ("b.", "c.")]).unwrap();
    }
}
