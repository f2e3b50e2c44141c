//! Where an image's tokens went, drawn over the image: `ask --picture`.

use std::io::Cursor;

use arrcoc_runtime::generate::{Place, Receipt};
use image::{DynamicImage, ImageDecoder, ImageReader, ImageResult, Rgb, RgbImage};

/// What no fine token looks at is darkened to this share of its brightness.
const DIM: f32 = 0.35;
/// How far the colour of relevance covers the picture at relevance 1.
const TINT: f32 = 0.35;
const RELEVANT: Rgb<u8> = Rgb([255, 140, 0]);
const GIST: Rgb<u8> = Rgb([90, 160, 220]);
/// Around what has not all levels of rows for deeper layers.
const SHALLOW: Rgb<u8> = Rgb([200, 90, 220]);

/// The image with the patches that got a token of their own bright, tinted by relevance, and the cells of the
/// gist grid outlined. What a selector left out is dark and tinted all the same; a token without all levels
/// for deeper layers has an outline of its own.
///
/// # Errors
/// The image library's; the runtime read the same bytes before, so this is rare.
pub(crate) fn draw(bytes: &[u8], receipt: &Receipt) -> ImageResult<RgbImage> {
    let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?.into_decoder()?;
    // Places are in pixels of the upright image.
    let orientation = decoder.orientation()?;
    let mut upright = DynamicImage::from_decoder(decoder)?;
    upright.apply_orientation(orientation);
    let original = upright.into_rgb8();

    let mut picture = original.clone();
    for pixel in picture.pixels_mut() {
        *pixel = blend(*pixel, Rgb([0, 0, 0]), 1.0 - DIM);
    }
    let (gist, fine): (Vec<&Place>, Vec<&Place>) = receipt.places.iter().partition(|place| place.gist);
    let dropped = receipt.dropped.iter().filter(|place| !place.gist);
    for (place, brightness) in dropped.map(|place| (place, DIM)).chain(fine.iter().map(|place| (*place, 1.0)))
    {
        let tint = TINT * place.score.map_or(0.0, |score| score.relevance).clamp(0.0, 1.0);
        let [left, top, right, bottom] = clip(place, &original);
        for (x, y) in (top..bottom).flat_map(|y| (left..right).map(move |x| (x, y))) {
            let pixel = blend(*original.get_pixel(x, y), Rgb([0, 0, 0]), 1.0 - brightness);
            picture.put_pixel(x, y, blend(pixel, RELEVANT, tint));
        }
    }
    let most = receipt.places.iter().filter_map(|place| place.layers).max();
    for place in fine.iter().filter(|place| place.layers < most) {
        outline(&mut picture, clip(place, &original), SHALLOW);
    }
    for place in gist {
        outline(&mut picture, clip(place, &original), GIST);
    }
    Ok(picture)
}

fn blend(from: Rgb<u8>, to: Rgb<u8>, share: f32) -> Rgb<u8> {
    let mix = |a: u8, b: u8| (f32::from(a) * (1.0 - share) + f32::from(b) * share).round() as u8;
    Rgb([mix(from[0], to[0]), mix(from[1], to[1]), mix(from[2], to[2])])
}

/// Left, top, right, bottom in whole pixels inside the image; the last two are exclusive.
fn clip(place: &Place, image: &RgbImage) -> [u32; 4] {
    let [left, top, right, bottom] = place.rect;
    // `as` saturates, and turns NaN into 0.
    let x = |value: f32| (value.round() as u32).min(image.width());
    let y = |value: f32| (value.round() as u32).min(image.height());
    [x(left), y(top), x(right), y(bottom)]
}

fn outline(picture: &mut RgbImage, [left, top, right, bottom]: [u32; 4], colour: Rgb<u8>) {
    if left >= right || top >= bottom {
        return;
    }
    for x in left..right {
        picture.put_pixel(x, top, colour);
        picture.put_pixel(x, bottom - 1, colour);
    }
    for y in top..bottom {
        picture.put_pixel(left, y, colour);
        picture.put_pixel(right - 1, y, colour);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrcoc_runtime::generate::Score;

    use super::*;

    fn place(rect: [f32; 4], relevance: f32, gist: bool) -> Place {
        Place { rect, gist, score: Some(Score { relevance, knowing: [0.0; 3] }), ..Place::default() }
    }

    #[test]
    fn chosen_patches_are_bright_the_rest_is_dark_and_cells_are_outlined() {
        let white = RgbImage::from_pixel(40, 20, Rgb([255, 255, 255]));
        let mut png = Vec::new();
        white.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let places = vec![
            place([0.0, 0.0, 10.0, 10.0], 0.0, false),
            place([10.0, 0.0, 20.0, 10.0], 1.0, false),
            // Beyond the image, as a patch at the border can be.
            place([20.0, 10.0, 60.0, 30.0], 0.5, true),
        ];
        let receipt = Receipt::of_all([40, 20], places);
        let picture = draw(&png, &receipt).unwrap();
        assert_eq!(picture.dimensions(), (40, 20));
        assert_eq!(picture.get_pixel(5, 5), &Rgb([255, 255, 255]));
        assert_eq!(picture.get_pixel(15, 5), &Rgb([255, 215, 166]));
        assert_eq!(picture.get_pixel(5, 15), &Rgb([89, 89, 89]));
        assert_eq!(picture.get_pixel(20, 10), &GIST);
        assert_eq!(picture.get_pixel(39, 19), &GIST);
        assert_eq!(picture.get_pixel(30, 15), &Rgb([89, 89, 89]));
    }

    #[test]
    fn what_was_left_out_is_dark_and_shallow_tokens_are_outlined() {
        let white = RgbImage::from_pixel(40, 20, Rgb([255, 255, 255]));
        let mut png = Vec::new();
        white.write_to(&mut Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
        let layers = |layers, at: f32| {
            let place = place([at, 0.0, at + 10.0, 10.0], 0.0, false);
            Place { layers: Some(layers), ..place }
        };
        let dropped =
            vec![place([20.0, 0.0, 30.0, 10.0], 1.0, false), place([30.0, 0.0, 40.0, 10.0], 0.0, false)];
        let receipt = Receipt { dropped, ..Receipt::of_all([40, 20], vec![layers(3, 0.0), layers(1, 10.0)]) };
        let picture = draw(&png, &receipt).unwrap();
        assert_eq!(picture.get_pixel(0, 0), &Rgb([255, 255, 255]));
        assert_eq!(picture.get_pixel(10, 0), &SHALLOW);
        assert_eq!(picture.get_pixel(15, 5), &Rgb([255, 255, 255]));
        assert_eq!(picture.get_pixel(25, 5), &Rgb([147, 107, 58]), "dark, and tinted");
        assert_eq!(picture.get_pixel(35, 5), &Rgb([89, 89, 89]));
    }

    #[test]
    fn what_is_no_image_is_an_error() {
        let receipt = Receipt::of_all([0, 0], vec![]);
        assert!(draw(b"nonsense", &receipt).is_err());
    }
}
