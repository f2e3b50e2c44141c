//! Where a value of JSON ends that arrives in pieces.

/// Goes over one value. Brackets are counted and not compared: whether the value is JSON is not asked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Value {
    begun: bool,
    depth: usize,
    string: bool,
    escaped: bool,
}

/// Whether a character ends the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Not yet.
    No,
    /// It is the last of it.
    With,
    /// It is none of it.
    Before,
}

impl Value {
    /// Whether anything but white space has come.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    pub(super) fn push(&mut self, c: char) -> End {
        if self.string {
            return self.push_in_string(c);
        }
        match c {
            '}' | ']' | ',' if self.depth == 0 => return End::Before,
            c if c.is_whitespace() => {
                return if self.begun && self.depth == 0 { End::Before } else { End::No };
            }
            '"' => self.string = true,
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth -= 1,
            _ => {}
        }
        self.begun = true;
        if matches!(c, '}' | ']') && self.depth == 0 { End::With } else { End::No }
    }

    fn push_in_string(&mut self, c: char) -> End {
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' => self.escaped = true,
            '"' => {
                self.string = false;
                return if self.depth == 0 { End::With } else { End::No };
            }
            _ => {}
        }
        End::No
    }
}
