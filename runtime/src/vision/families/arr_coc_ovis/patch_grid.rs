//! Where patches and gist cells lie: in the encoder's grid, and in the original picture.

/// The grid of patches of one encoder input, with the gist grid over it.
#[derive(Debug, Clone, Copy)]
pub struct PatchGrid {
    /// Patches per side.
    side: usize,
    /// Side of a patch, encoder pixels.
    patch: usize,
    /// Gist cells per side.
    gist: usize,
}

/// The part of the grid that holds the picture; the rest is padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Valid {
    /// Columns.
    pub columns: usize,
    /// Rows.
    pub rows: usize,
}

impl Valid {
    /// Patches.
    pub fn patches(self) -> usize {
        self.columns * self.rows
    }

    /// Whether the patch at a row and column holds a piece of the picture.
    pub fn contains(self, row: usize, column: usize) -> bool {
        row < self.rows && column < self.columns
    }
}

/// A token index of the compressor, resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Token {
    /// A patch, by index in the grid.
    Fine(usize),
    /// A gist cell, by index in the gist grid.
    Gist(usize),
}

impl PatchGrid {
    /// A grid of `side` patches a side, each of `patch` encoder pixels, under `gist` cells a side.
    pub fn new(side: usize, patch: usize, gist: usize) -> Self {
        // More cells than patches would leave cells empty.
        Self { side, patch, gist: gist.min(side) }
    }

    /// Patches per side.
    pub fn side(&self) -> usize {
        self.side
    }

    /// Patches in the grid.
    pub fn patches(&self) -> usize {
        self.side * self.side
    }

    /// Gist cells over the grid.
    pub fn cells(&self) -> usize {
        self.gist * self.gist
    }

    /// The patches that a picture of this size in encoder pixels covers, if only in part.
    pub fn valid_region(&self, [width, height]: [u32; 2]) -> Valid {
        let patches = |pixels: u32| (pixels as usize).div_ceil(self.patch).min(self.side);
        Valid { columns: patches(width), rows: patches(height) }
    }

    /// Row and column of a patch.
    pub fn position(&self, patch: usize) -> (usize, usize) {
        (patch / self.side, patch % self.side)
    }

    /// What a compressor index stands for; `None` when it is out of range.
    pub fn token(&self, index: i64) -> Option<Token> {
        let index = usize::try_from(index).ok()?;
        match index.checked_sub(self.patches()) {
            None => Some(Token::Fine(index)),
            Some(cell) => (cell < self.cells()).then_some(Token::Gist(cell)),
        }
    }

    /// Rows and columns of the patches that a token stands for.
    fn span(&self, token: Token) -> [std::ops::Range<usize>; 2] {
        // Patch i belongs to cell floor(i * gist / side), so cell c begins at ceil(c * side / gist).
        let begin = |cell: usize| (cell * self.side).div_ceil(self.gist);
        match token {
            Token::Fine(patch) => {
                let (row, column) = self.position(patch);
                [row..row + 1, column..column + 1]
            }
            Token::Gist(cell) => [cell / self.gist, cell % self.gist].map(|at| begin(at)..begin(at + 1)),
        }
    }

    /// Tile, row and column of a token, in its own grid.
    pub fn cell(&self, token: Token) -> [u32; 3] {
        let (index, side) = match token {
            Token::Fine(patch) => (patch, self.side),
            Token::Gist(cell) => (cell, self.gist),
        };
        [0, (index / side.max(1)) as u32, (index % side.max(1)) as u32]
    }

    /// The patches that a token stands for.
    pub fn patches_of(&self, token: Token) -> impl Iterator<Item = usize> + use<> {
        let [rows, columns] = self.span(token);
        let side = self.side;
        rows.flat_map(move |row| columns.clone().map(move |column| row * side + column))
    }

    /// Left, top, right and bottom of a token in original pixels, clipped to the picture.
    pub fn rect(&self, token: Token, original: [u32; 2], resized: [u32; 2]) -> [f32; 4] {
        let [rows, columns] = self.span(token);
        let scale = |patches: usize, axis: usize| {
            let pixels = (patches * self.patch) as f32 * original[axis] as f32 / resized[axis].max(1) as f32;
            pixels.min(original[axis] as f32)
        };
        [scale(columns.start, 0), scale(rows.start, 1), scale(columns.end, 0), scale(rows.end, 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_is_in_exactly_the_cell_that_the_compressor_says() {
        for (side, gist) in [(8, 2), (64, 8), (7, 3), (32, 5), (4, 4), (2, 8)] {
            let layout = PatchGrid::new(side, 16, gist);
            let gist = gist.min(side);
            let mut seen = vec![0; layout.patches()];
            for cell in 0..layout.cells() {
                for patch in layout.patches_of(Token::Gist(cell)) {
                    let (row, column) = layout.position(patch);
                    assert_eq!(row * gist / side * gist + column * gist / side, cell);
                    seen[patch] += 1;
                }
            }
            assert!(seen.iter().all(|&count| count == 1));
        }
    }

    #[test]
    fn indices_resolve_to_patches_then_cells_then_nothing() {
        let layout = PatchGrid::new(4, 16, 2);
        assert_eq!(layout.token(0), Some(Token::Fine(0)));
        assert_eq!(layout.token(15), Some(Token::Fine(15)));
        assert_eq!(layout.token(16), Some(Token::Gist(0)));
        assert_eq!(layout.token(19), Some(Token::Gist(3)));
        assert_eq!(layout.token(20), None);
        assert_eq!(layout.token(-1), None);
    }

    #[test]
    fn rectangles_are_in_original_pixels_and_clipped() {
        // A 200 x 150 picture, shown as 64 x 48 in a 64 x 64 input of 4 x 4 patches.
        let layout = PatchGrid::new(4, 16, 2);
        let rect = |token| layout.rect(token, [200, 150], [64, 48]);
        assert_eq!(rect(Token::Fine(0)), [0.0, 0.0, 50.0, 50.0]);
        assert_eq!(rect(Token::Fine(11)), [150.0, 100.0, 200.0, 150.0]);
        assert_eq!(rect(Token::Fine(12)), [0.0, 150.0, 50.0, 150.0], "padding has no area");
        assert_eq!(rect(Token::Gist(3)), [100.0, 100.0, 200.0, 150.0]);
    }

    #[test]
    fn partly_covered_patches_are_valid() {
        let layout = PatchGrid::new(4, 16, 2);
        let valid = layout.valid_region([64, 33]);
        assert_eq!(valid, Valid { columns: 4, rows: 3 });
        assert_eq!(valid.patches(), 12);
        assert!(valid.contains(2, 3) && !valid.contains(3, 0));
    }
}
