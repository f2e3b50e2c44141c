//! A picture of where the visual tokens went: the image grey and dark where the model only glanced, in full colour where
//! it looked closely.
//!
//! Fine tokens keep their colours and share one amber outline; the surroundings fade with the relevance of their gist
//! cell, whose borders show as a faint grid.

use ::image::{ImageEncoder as _, ImageError, Rgb, RgbImage};

use crate::generate::{Place, Receipt};
use crate::image::resample::resize;

/// Longest side of the picture, pixels; larger images are scaled down.
const LONGEST: u32 = 1600;

/// Brightness of a gist cell without any relevance, and of the most relevant one.
const GIST: [f32; 2] = [0.28, 0.58];

/// Share of its colour that the background keeps.
const BACKGROUND_COLOUR: f32 = 0.35;

/// The outline of what the model looked at closely.
const AMBER: [f32; 3] = [255.0, 176.0, 0.0];

/// Draws the places of a receipt over the image that it belongs to (upright, as decoded).
pub fn draw(image: &RgbImage, receipt: &Receipt) -> RgbImage {
    let mut canvas = Canvas::new(fit(image), receipt);
    canvas.paint();
    canvas.image
}

/// The picture as a PNG file.
///
/// # Errors
/// The encoder's error; an image in memory gives none.
pub fn to_png(image: &RgbImage) -> Result<Vec<u8>, ImageError> {
    let mut file = Vec::new();
    let encoder = ::image::codecs::png::PngEncoder::new(&mut file);
    encoder.write_image(image.as_raw(), image.width(), image.height(), ::image::ExtendedColorType::Rgb8)?;
    Ok(file)
}

fn fit(image: &RgbImage) -> RgbImage {
    let longest = image.width().max(image.height());
    if longest <= LONGEST {
        return image.clone();
    }
    let scaled = |side: u32| (u64::from(side) * u64::from(LONGEST) / u64::from(longest)).max(1) as u32;
    let (width, height) = (scaled(image.width()), scaled(image.height()));
    let pixels = resize(image, width as usize, height as usize);
    RgbImage::from_raw(width, height, pixels).unwrap_or_default()
}

/// A rectangle of pixels: left, top, right, bottom; right and bottom are outside.
type Rect = [usize; 4];

struct Canvas {
    image: RgbImage,
    width: usize,
    height: usize,
    /// Relevance around every pixel, 0..1 between the least and the most relevant gist cell.
    glance: Vec<f32>,
    /// Pixels that a fine token covers.
    looked: Vec<bool>,
    /// Borders between gist cells.
    grid: Vec<bool>,
}

impl Canvas {
    fn new(image: RgbImage, receipt: &Receipt) -> Self {
        let (width, height) = (image.width() as usize, image.height() as usize);
        let scale = [
            width as f32 / receipt.image_size[0].max(1) as f32,
            height as f32 / receipt.image_size[1].max(1) as f32,
        ];
        let rect = |place: &Place| -> Rect {
            let [left, top, right, bottom] = place.rect;
            let x = |value: f32| ((value * scale[0]).round() as usize).min(width);
            let y = |value: f32| ((value * scale[1]).round() as usize).min(height);
            [x(left), y(top), x(right), y(bottom)]
        };
        let pixels = width * height;
        let mut canvas = Self {
            image,
            width,
            height,
            glance: vec![0.0; pixels],
            looked: vec![false; pixels],
            grid: vec![false; pixels],
        };
        let gist: Vec<_> = receipt.places.iter().filter(|place| place.gist).collect();
        let relevance = |place: &&Place| place.relevance;
        let least = gist.iter().map(relevance).fold(f32::INFINITY, f32::min);
        let most = gist.iter().map(relevance).fold(f32::NEG_INFINITY, f32::max);
        for place in gist {
            let share = (place.relevance - least) / (most - least).max(1e-6);
            let rect = rect(place);
            canvas.fill(rect, |canvas, at| canvas.glance[at] = share);
            canvas.fill([rect[0], rect[1], rect[2], rect[1] + 1], |canvas, at| canvas.grid[at] = rect[1] > 0);
            canvas
                .fill([rect[0], rect[1], rect[0] + 1, rect[3]], |canvas, at| canvas.grid[at] |= rect[0] > 0);
        }
        for place in receipt.places.iter().filter(|place| !place.gist) {
            canvas.fill(rect(place), |canvas, at| canvas.looked[at] = true);
        }
        canvas
    }

    fn fill(&mut self, [left, top, right, bottom]: Rect, mut set: impl FnMut(&mut Self, usize)) {
        for y in top..bottom.min(self.height) {
            for x in left..right.min(self.width) {
                set(self, y * self.width + x);
            }
        }
    }

    fn paint(&mut self) {
        // Hard steps of brightness at the cells' borders would look like edges of the picture.
        let radius = self.width.max(self.height) / 24;
        let glance = blur(&self.glance, self.width, self.height, radius);
        let line = (self.width.max(self.height) / 256).max(1);
        let inside = erode(&self.looked, self.width, self.height, line);
        for (at, pixel) in self.image.pixels_mut().enumerate() {
            let colour = pixel.0.map(f32::from);
            let painted = match (self.looked[at], inside[at]) {
                (true, true) => colour,
                (true, false) => AMBER,
                (false, _) => background(colour, glance[at], self.grid[at]),
            };
            *pixel = Rgb(painted.map(|value| value.round().clamp(0.0, 255.0) as u8));
        }
    }
}

fn background(colour: [f32; 3], glance: f32, grid: bool) -> [f32; 3] {
    let [red, green, blue] = colour;
    let grey = 0.299 * red + 0.587 * green + 0.114 * blue;
    let brightness = GIST[0] + (GIST[1] - GIST[0]) * glance;
    let line = if grid { 22.0 } else { 0.0 };
    colour.map(|value| (grey + (value - grey) * BACKGROUND_COLOUR) * brightness + line)
}

/// Pixels whose whole surroundings, `radius` to each side, are set; what lies outside of the picture counts as unset.
fn erode(mask: &[bool], width: usize, height: usize, radius: usize) -> Vec<bool> {
    let values: Vec<f32> = mask.iter().map(|&set| f32::from(u8::from(set))).collect();
    let full = ((2 * radius + 1) * (2 * radius + 1)) as f32;
    let sums = box_sums(&values, width, height, radius);
    sums.iter().map(|&(sum, _)| sum >= full - 0.5).collect()
}

/// Mean over a square, twice, which comes close to a Gaussian.
fn blur(values: &[f32], width: usize, height: usize, radius: usize) -> Vec<f32> {
    let mean = |values: &[f32]| -> Vec<f32> {
        box_sums(values, width, height, radius).into_iter().map(|(sum, count)| sum / count).collect()
    };
    mean(&mean(values))
}

/// Sum over the square around every pixel, and how many pixels of it lie in the picture.
fn box_sums(values: &[f32], width: usize, height: usize, radius: usize) -> Vec<(f32, f32)> {
    // Integral image with a row and a column of zeros before it.
    let stride = width + 1;
    let mut integral = vec![0.0_f64; stride * (height + 1)];
    for y in 0..height {
        let mut row = 0.0;
        for x in 0..width {
            row += f64::from(values[y * width + x]);
            integral[(y + 1) * stride + x + 1] = integral[y * stride + x + 1] + row;
        }
    }
    let mut sums = Vec::with_capacity(values.len());
    for y in 0..height {
        let (top, bottom) = (y.saturating_sub(radius), (y + radius + 1).min(height));
        for x in 0..width {
            let (left, right) = (x.saturating_sub(radius), (x + radius + 1).min(width));
            let corner = |y: usize, x: usize| integral[y * stride + x];
            let sum = corner(bottom, right) - corner(top, right) - corner(bottom, left) + corner(top, left);
            sums.push((sum as f32, ((bottom - top) * (right - left)) as f32));
        }
    }
    sums
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn receipt(image_size: [u32; 2], places: Vec<Place>) -> Receipt {
        Receipt {
            tier: 0,
            tokens: places.len(),
            tier_logits: vec![0.0],
            tension_weights: [1.0, 0.0, 0.0],
            image_size,
            places,
        }
    }

    fn place(rect: [f32; 4], relevance: f32, gist: bool) -> Place {
        Place { rect, relevance, gist, knowing: [0.5; 3] }
    }

    fn brightness(image: &RgbImage, x: u32, y: u32) -> u32 {
        image.get_pixel(x, y).0.iter().map(|&value| u32::from(value)).sum()
    }

    #[test]
    fn fine_places_keep_their_colours_inside_an_amber_outline() {
        let image = RgbImage::from_pixel(320, 160, Rgb([200, 40, 90]));
        let receipt = receipt(
            [320, 160],
            vec![
                place([0.0, 0.0, 160.0, 160.0], 0.2, true),
                place([160.0, 0.0, 320.0, 160.0], 0.9, true),
                place([40.0, 40.0, 60.0, 60.0], 0.9, false),
                place([60.0, 40.0, 80.0, 60.0], 0.9, false),
            ],
        );
        let picture = draw(&image, &receipt);
        assert_eq!(picture.dimensions(), (320, 160));
        assert_eq!(picture.get_pixel(50, 50).0, [200, 40, 90], "looked at");
        assert_eq!(picture.get_pixel(60, 50).0, [200, 40, 90], "neighbours share one outline");
        assert_eq!(picture.get_pixel(40, 50).0, [255, 176, 0]);
        assert_eq!(picture.get_pixel(79, 59).0, [255, 176, 0]);
        assert!(brightness(&picture, 20, 100) < brightness(&image, 20, 100) / 2);
        assert!(
            brightness(&picture, 300, 100) > brightness(&picture, 20, 100),
            "relevant cells are brighter"
        );
    }

    #[test]
    fn large_images_shrink_and_odd_receipts_do_no_harm() {
        let image = RgbImage::from_pixel(3200, 10, Rgb([9; 3]));
        let wild = vec![
            place([f32::NAN, -5.0, 1e9, f32::INFINITY], f32::NAN, true),
            place([3000.0, 0.0, 100.0, 5.0], 2.0, false),
        ];
        let picture = draw(&image, &receipt([3200, 10], wild));
        assert_eq!(picture.dimensions(), (1600, 5));
        assert_eq!(draw(&RgbImage::new(1, 1), &receipt([0, 0], Vec::new())).dimensions(), (1, 1));
        let file = to_png(&picture).unwrap();
        assert_eq!(::image::load_from_memory(&file).unwrap().into_rgb8(), picture);
    }
}
