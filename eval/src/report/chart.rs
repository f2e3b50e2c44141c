//! The curves: accuracy against visual tokens, and against characters per token.
//!
//! One drawing for both forms. The font comes with the program: what a plotting library finds on a system
//! differs, and a server often has none.

use std::collections::BTreeSet;
use std::sync::Once;

use crate::arms::{Arm, Method, Positions};
use arrcoc_runtime::generate::Selector;
use plotters::coord::Shift;
use plotters::coord::combinators::{BindKeyPoints, LogCoord};
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use super::super::bootstrap::Interval;
use super::super::summary::{BINS, Summary};
use super::ReportError;

/// See LICENSE beside it.
const FONT_FILE: &[u8] = include_bytes!("font/DejaVuSans-ascii.ttf");
const FONT: &str = "sans-serif";

/// Width and height, pixels.
const SIZE: (u32, u32) = (1500, 640);
/// Width of the legend, pixels.
const LEGEND: u32 = 220;
const GREY: RGBColor = RGBColor(90, 90, 90);

/// As SVG.
pub(super) fn svg(summary: &Summary) -> Result<String, ReportError> {
    let mut text = String::new();
    draw(&SVGBackend::with_string(&mut text, SIZE).into_drawing_area(), summary)?;
    Ok(text)
}

/// As a PNG file.
pub(super) fn png(summary: &Summary) -> Result<Vec<u8>, ReportError> {
    let mut pixels = vec![0; (SIZE.0 * SIZE.1 * 3) as usize];
    draw(&BitMapBackend::with_buffer(&mut pixels, SIZE).into_drawing_area(), summary)?;
    let picture = image::RgbImage::from_raw(SIZE.0, SIZE.1, pixels).unwrap_or_default();
    let mut file = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut file, image::ImageFormat::Png)?;
    Ok(file.into_inner())
}

/// A point of a curve.
struct Point {
    x: f64,
    exact: Interval,
}

/// The points of one arm, from left to right.
struct Curve {
    arm: Arm,
    points: Vec<Point>,
}

type Area<'a, DB> = DrawingArea<DB, Shift>;

fn failed(error: impl std::fmt::Display) -> ReportError {
    ReportError::Chart(error.to_string())
}

fn register_font() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // A test draws with it: a font that does not parse would not get past that.
        let _ = plotters::style::register_font(FONT, FontStyle::Normal, FONT_FILE);
    });
}

fn draw<DB: DrawingBackend>(area: &Area<'_, DB>, summary: &Summary) -> Result<(), ReportError> {
    register_font();
    area.fill(&WHITE).map_err(failed)?;
    let positions = summary.cells.iter().map(|cell| cell.positions).min().unwrap_or(Positions::Original);
    let title = format!(
        "{} on {}: exact match, {positions} positions, 95% intervals",
        plain(&summary.about.model),
        plain(&summary.about.data)
    );
    let area = area.titled(&title, (FONT, 20)).map_err(failed)?;
    let (panels, legend) = area.split_horizontally(SIZE.0 - LEGEND);
    let (left, right) = panels.split_horizontally((SIZE.0 - LEGEND) / 2);
    let by_tokens = by_tokens(summary, positions);
    let by_ratio = by_ratio(summary, positions);
    let arms: BTreeSet<Arm> = by_tokens.iter().chain(&by_ratio).map(|curve| curve.arm).collect();
    let budgets: BTreeSet<usize> = summary.cells.iter().filter_map(|cell| cell.budget.number()).collect();
    draw_by_tokens(&left, &by_tokens, budgets.into_iter().map(|tokens| tokens as f64).collect())?;
    match by_ratio.is_empty() {
        false => draw_by_ratio(&right, &by_ratio)?,
        true => right
            .draw(&Text::new("no row says how many characters its page has", (120, 300), (FONT, 15)))
            .map_err(failed)?,
    }
    draw_legend(&legend, &arms)?;
    area.present().map_err(failed)
}

/// What the font has; names of models and files may hold anything.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(60).collect()
}

fn by_tokens(summary: &Summary, positions: Positions) -> Vec<Curve> {
    let of = |arm: Arm| {
        // `auto` is a mixture of tiers, no point of a curve.
        let cells = summary.of_kind(None).filter(|cell| {
            cell.arm == arm
                && cell.positions == positions
                && (cell.budget.number().is_some() || arm.method == Method::Full)
        });
        let mut points: Vec<Point> = cells.map(|cell| Point { x: cell.tokens, exact: cell.exact }).collect();
        points.sort_by(|a, b| a.x.total_cmp(&b.x));
        Curve { arm, points }
    };
    let arms: BTreeSet<Arm> = summary.cells.iter().map(|one| one.arm).collect();
    arms.into_iter().map(of).filter(|curve| !curve.points.is_empty()).collect()
}

fn by_ratio(summary: &Summary, positions: Positions) -> Vec<Curve> {
    let of = |arm: Arm| {
        let bins = summary.bins.iter().filter(|bin| bin.arm == arm && bin.positions == positions);
        Curve { arm, points: bins.map(|bin| Point { x: bin.bin as f64, exact: bin.exact }).collect() }
    };
    let arms: BTreeSet<Arm> = summary.bins.iter().map(|one| one.arm).collect();
    arms.into_iter().map(of).filter(|curve| !curve.points.is_empty()).collect()
}

fn draw_by_tokens<DB: DrawingBackend>(
    area: &Area<'_, DB>,
    curves: &[Curve],
    budgets: Vec<f64>,
) -> Result<(), ReportError> {
    let xs = || curves.iter().flat_map(|curve| &curve.points).map(|point| point.x);
    let (low, high) = (xs().fold(f64::INFINITY, f64::min), xs().fold(1.0, f64::max));
    let low = if low.is_finite() { low } else { 1.0 };
    // Labels stand at the budgets: a log axis' own are powers of ten.
    let axis: LogCoord<f64> = (low / 1.15..high * 1.15).log_scale().into();
    let mut chart =
        builder(area).build_cartesian_2d(axis.with_key_points(budgets), 0.0..1.0).map_err(failed)?;
    mesh(&mut chart, "visual tokens", 16, &|x| format!("{x:.0}"))?;
    for (at, curve) in curves.iter().enumerate() {
        let scale = 1.0 + 0.006 * nudge(at, curves.len());
        let points = curve.points.iter().map(|point| (point.x * scale, point.exact));
        series(&mut chart, curve.arm, &points.collect::<Vec<_>>())?;
    }
    Ok(())
}

fn draw_by_ratio<DB: DrawingBackend>(area: &Area<'_, DB>, curves: &[Curve]) -> Result<(), ReportError> {
    let last = BINS.len() as f64 - 0.5;
    let mut chart = builder(area).build_cartesian_2d(-0.5..last, 0.0..1.0).map_err(failed)?;
    let name = |x: &f64| {
        let whole = (x - x.round()).abs() < 1e-6 && *x >= -0.1;
        BINS.get(x.round().max(0.0) as usize)
            .filter(|_| whole)
            .map_or_else(String::new, |bin| bin.0.to_owned())
    };
    mesh(&mut chart, "characters per token", BINS.len(), &name)?;
    for (at, curve) in curves.iter().enumerate() {
        let shift = 0.02 * nudge(at, curves.len());
        let points = curve.points.iter().map(|point| (point.x + shift, point.exact));
        series(&mut chart, curve.arm, &points.collect::<Vec<_>>())?;
    }
    Ok(())
}

type Chart<'a, DB, X> = ChartContext<'a, DB, Cartesian2d<X, RangedCoordf64>>;

/// Axes and lines.
fn mesh<DB: DrawingBackend, X: Ranged<ValueType = f64> + ValueFormatter<f64>>(
    chart: &mut Chart<'_, DB, X>,
    name: &str,
    labels: usize,
    format: &dyn Fn(&f64) -> String,
) -> Result<(), ReportError> {
    let mut mesh = chart.configure_mesh();
    mesh.x_desc(name).y_desc("exact match").x_labels(labels).x_label_formatter(format);
    mesh.y_label_formatter(&|y| format!("{:.0}%", 100.0 * y))
        .label_style((FONT, 14))
        .axis_desc_style((FONT, 15));
    mesh.light_line_style(WHITE).axis_style(GREY).draw().map_err(failed)
}

/// A curve with its points and their intervals.
fn series<DB: DrawingBackend, X: Ranged<ValueType = f64>>(
    chart: &mut Chart<'_, DB, X>,
    arm: Arm,
    points: &[(f64, Interval)],
) -> Result<(), ReportError> {
    let style = style(arm);
    let line = points.iter().map(|(x, exact)| (*x, exact.mean));
    chart.draw_series(LineSeries::new(line.clone(), style)).map_err(failed)?;
    chart.draw_series(line.map(|point| Circle::new(point, 4, style.filled()))).map_err(failed)?;
    let bars = points.iter().map(|(x, exact)| vec![(*x, exact.low), (*x, exact.high)]);
    chart.draw_series(bars.map(|bar| PathElement::new(bar, style.stroke_width(1)))).map_err(failed)?;
    Ok(())
}

/// Curves side by side, so that their intervals can be told apart.
fn nudge(at: usize, curves: usize) -> f64 {
    at as f64 - curves as f64 / 2.0
}

fn builder<'a, 'b, DB: DrawingBackend>(area: &'a Area<'b, DB>) -> ChartBuilder<'a, 'b, DB> {
    let mut builder = ChartBuilder::on(area);
    builder.margin(12).x_label_area_size(48).y_label_area_size(56);
    builder
}

fn draw_legend<DB: DrawingBackend>(area: &Area<'_, DB>, arms: &BTreeSet<Arm>) -> Result<(), ReportError> {
    for (row, &arm) in arms.iter().enumerate() {
        let y = 24 + 26 * row as i32;
        let style = style(arm);
        area.draw(&PathElement::new(vec![(8, y), (44, y)], style)).map_err(failed)?;
        area.draw(&Circle::new((26, y), 4, style.filled())).map_err(failed)?;
        area.draw(&Text::new(arm.to_string(), (54, y - 8), (FONT, 16))).map_err(failed)?;
    }
    Ok(())
}

/// What knows the question in warm colours, what does not in cold ones, bounds in black and grey.
fn style(arm: Arm) -> ShapeStyle {
    let (red, green, blue) = match arm.method {
        Method::Full => (20, 20, 20),
        Method::Grid => (0, 90, 181),
        Method::Downsampled => (86, 180, 233),
        Method::Selector(Selector::Uniform) => (0, 128, 110),
        Method::Random => (140, 200, 120),
        Method::Saliency => (90, 110, 40),
        Method::Agnostic => (110, 60, 170),
        Method::Coverage => (190, 130, 210),
        Method::QueryAware => (213, 40, 0),
        Method::QueryAwareChoice => (240, 140, 40),
        Method::Shuffled => (160, 90, 50),
        Method::FirstQuestion => (220, 170, 140),
        Method::Selector(Selector::Balanced) => (213, 40, 0),
        Method::Selector(Selector::MmTok) => (240, 140, 40),
        Method::Selector(Selector::CdPruner) => (200, 40, 140),
        Method::Selector(Selector::TopK) => (150, 110, 0),
        Method::Selector(Selector::Scope) => (110, 60, 170),
        Method::Selector(Selector::DivPrune) => (0, 90, 181),
        Method::Oracle => (230, 180, 0),
        Method::Blank => (160, 160, 160),
    };
    // With something switched on, a paler line beside that of the method.
    let paler = |level: u8| if arm.is_plain() { level } else { level / 2 + 127 };
    let ours = [Method::QueryAware, Method::Selector(Selector::default())].map(Arm::of).contains(&arm);
    RGBColor(paler(red), paler(green), paler(blue)).stroke_width(if ours { 3 } else { 1 })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::super::super::journal::tests::answer;
    use super::super::super::summary::tests::summary;
    use super::*;

    fn some(characters: Option<f64>) -> Summary {
        let arms = [Method::QueryAware, Method::Grid];
        let lines = arms.iter().flat_map(|&arm| {
            (0..12).map(move |row| {
                let mut line = answer(row, arm, [16, 64, 400][row % 3], row % 4 == 0);
                line.characters = characters.map(|count| count * row as f64);
                line
            })
        });
        summary(lines.collect())
    }

    #[test]
    fn both_forms_are_drawn() {
        let summary = some(Some(100.0));
        let text = svg(&summary).unwrap();
        for part in ["<svg", "query_aware", "characters per token", "visual tokens", "10-20", "95% intervals"]
        {
            assert!(text.contains(part), "{part}");
        }
        let file = png(&summary).unwrap();
        let picture = image::load_from_memory(&file).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), SIZE);
        // Letters and curves: neither an empty page nor a full one.
        let dark = picture.pixels().filter(|pixel| pixel.0.iter().any(|&value| value < 128)).count();
        assert!((2_000..100_000).contains(&dark), "{dark}");
    }

    #[test]
    fn without_characters_one_panel_says_so() {
        let text = svg(&some(None)).unwrap();
        assert!(text.contains("no row says how many characters"));
        assert!(png(&some(None)).is_ok());
    }
}
