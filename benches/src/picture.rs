//! Charts for the report, as SVG files. Axes of time are logarithmic.

use std::{fs, path::PathBuf, time::Duration};

use benches::Result;
use plotters::{coord::Shift, prelude::*};

use crate::load::Durations;

const SIZE: (u32, u32) = (960, 540);
const COLORS: [RGBColor; 4] = [BLUE, RED, GREEN, MAGENTA];
const BUCKETS_PER_DECADE: i32 = 20;
/// From a microsecond to a second.
const DECADES: std::ops::Range<i32> = 0..6;

/// Draws how often each latency occurred. Both axes are logarithmic, so that rare long latencies
/// are visible. Returns the path of the file, as all functions here do.
pub(crate) fn histogram(name: &str, title: &str, series: &[(&str, &Durations)]) -> Result<PathBuf> {
    let path = path(name)?;
    let bounds: Vec<_> = (DECADES.start * BUCKETS_PER_DECADE..=DECADES.end * BUCKETS_PER_DECADE)
        .map(|bucket| 10_f64.powf(f64::from(bucket) / f64::from(BUCKETS_PER_DECADE)))
        .collect();
    let times: Vec<_> = bounds.iter().map(|micros| Duration::from_secs_f64(micros / 1e6)).collect();
    let min = series.iter().map(|(_, durations)| durations.count()).max().map_or(1e-6, min_share);

    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 24))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(
            (bounds[0]..bounds[bounds.len() - 1]).log_scale(),
            (min..1.0).log_scale(),
        )?;
    chart
        .configure_mesh()
        .x_desc("latency from the due time (each decade in 20 steps)")
        .x_label_formatter(&|micros| format!("{:?}", Duration::from_secs_f64(micros / 1e6)))
        .y_desc("share of operations")
        .y_label_formatter(&|share| format!("{share:.0e}"))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 17))
        .draw()?;
    for ((name, durations), color) in series.iter().zip(COLORS) {
        let label = format!(
            "{name}: p50 {:.1?}, p99.9 {:.1?}, max {:.1?}",
            durations.at(0.5),
            durations.at(0.999),
            durations.max()
        );
        chart
            .draw_series(LineSeries::new(
                steps(&bounds, &durations.shares(&times), min),
                color.stroke_width(2),
            ))?
            .label(label)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], color.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK)
        .label_font(("sans-serif", 17))
        .draw()?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(path)
}

/// Draws a group of bars for each row, with one bar for each of `sides`. Each bar has its time as a
/// label.
pub(crate) fn bars<const N: usize>(
    name: &str,
    title: &str,
    sides: &[&str; N],
    rows: &[(&str, [Duration; N])],
) -> Result<PathBuf> {
    let path = path(name)?;
    let millis = |time: &Duration| time.as_secs_f64() * 1e3;
    let times = || rows.iter().flat_map(|(_, times)| times).map(millis);
    let min = 10_f64.powf(times().fold(1.0, f64::min).log10().floor());
    let max = 10_f64.powf(times().fold(1.0, f64::max).log10().ceil());
    let group = sides.len() + 1;

    let root = SVGBackend::new(&path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 24))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(72)
        .build_cartesian_2d(0..rows.len() * group, (min..max).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_desc("median time")
        .y_label_formatter(&|millis| label(*millis))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 15))
        .axis_desc_style(("sans-serif", 17))
        .draw()?;
    for (number, (side, color)) in sides.iter().zip(COLORS).enumerate() {
        let at = |row: usize| row * group + number;
        let bars = rows.iter().enumerate().map(|(row, (_, times))| {
            let height = millis(&times[number]);
            Rectangle::new([(at(row), min), (at(row) + 1, height)], color.mix(0.7).filled())
        });
        chart.draw_series(bars)?.label(*side).legend(move |(x, y)| {
            Rectangle::new([(x, y - 5), (x + 20, y + 5)], color.mix(0.7).filled())
        });
        let texts = rows.iter().enumerate().map(|(row, (_, times))| {
            let height = millis(&times[number]);
            EmptyElement::at((at(row), height))
                + Text::new(label(height), (2, -16), ("sans-serif", 13))
        });
        chart.draw_series(texts)?;
    }
    let names = rows.iter().enumerate().map(|(row, (name, _))| {
        EmptyElement::at((row * group, min))
            + Text::new((*name).to_owned(), (0, 8), ("sans-serif", 13))
    });
    chart.draw_series(names)?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.9))
        .border_style(BLACK)
        .label_font(("sans-serif", 17))
        .draw()?;
    root.present()?;
    drop(chart);
    drop(root);
    Ok(path)
}

/// One of several charts side by side: what something costs at several points.
#[derive(Debug)]
pub(crate) struct Panel {
    /// What grows from point to point.
    pub(crate) title: String,
    /// The names of the points.
    pub(crate) points: Vec<String>,
    /// The names of the lines, and nanoseconds at each point.
    pub(crate) lines: Vec<(&'static str, Vec<f64>)>,
}

/// Draws panels in rows of three.
pub(crate) fn panels(name: &str, title: &str, panels: &[Panel]) -> Result<PathBuf> {
    let path = path(name)?;
    let rows = panels.len().div_ceil(3);
    let height = u32::try_from(rows)? * 320 + 48;
    let root = SVGBackend::new(&path, (1260, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let areas = root.titled(title, ("sans-serif", 24))?.split_evenly((rows, 3));
    for (area, panel) in areas.iter().zip(panels) {
        draw_panel(area, panel)?;
    }
    root.present()?;
    drop(areas);
    drop(root);
    Ok(path)
}

fn draw_panel(area: &DrawingArea<SVGBackend<'_>, Shift>, panel: &Panel) -> Result<()> {
    let millis = |nanos: f64| nanos / 1e6;
    let times = || panel.lines.iter().flat_map(|(_, times)| times).copied().map(millis);
    let min = 10_f64.powf(times().fold(f64::INFINITY, f64::min).log10().floor());
    let max = 10_f64.powf(times().fold(0.0, f64::max).log10().ceil());
    let mut chart = ChartBuilder::on(area)
        .caption(&panel.title, ("sans-serif", 17))
        .margin(12)
        .x_label_area_size(28)
        .y_label_area_size(60)
        .build_cartesian_2d(0..panel.points.len() - 1, (min..max).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(panel.points.len())
        .x_label_formatter(&|point| panel.points[*point].clone())
        .y_labels(5)
        .y_label_formatter(&|millis| label(*millis))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 13))
        .draw()?;
    for ((name, times), color) in panel.lines.iter().zip(COLORS) {
        let points: Vec<_> = times.iter().copied().map(millis).enumerate().collect();
        chart
            .draw_series(LineSeries::new(points.iter().copied(), color.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], color.stroke_width(2)));
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13))
        .draw()?;
    Ok(())
}

fn label(millis: f64) -> String {
    let time = Duration::from_secs_f64(millis / 1e3);
    if millis < 1.0 { format!("{time:.0?}") } else { format!("{time:.1?}") }
}

fn path(name: &str) -> Result<PathBuf> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/report"));
    fs::create_dir_all(&folder)?;
    Ok(folder.join(name).with_extension("svg"))
}

/// The outline of the columns of a histogram.
fn steps(bounds: &[f64], shares: &[f64], min: f64) -> Vec<(f64, f64)> {
    let column =
        |(pair, share): (&[f64], &f64)| [(pair[0], share.max(min)), (pair[1], share.max(min))];
    bounds.windows(2).zip(shares).flat_map(column).collect()
}

/// A power of ten below the share of a single operation.
#[expect(clippy::cast_precision_loss, reason = "the end of an axis")]
fn min_share(count: u64) -> f64 {
    10_f64.powf((1.0 / count.max(1) as f64).log10().floor())
}
