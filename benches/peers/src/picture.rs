//! The pictures of the report, as SVG.

use std::{error::Error, path::Path};

use plotters::{coord::Shift, prelude::*};

use crate::{
    measure::{Figures, Plan, bytes, time},
    peer::{Operation, Who},
    requests::{SIDES, Workload},
};

const COLORS: [RGBColor; 11] = [
    RGBColor(0, 70, 200),
    RGBColor(90, 160, 255),
    RGBColor(0, 190, 220),
    RGBColor(60, 160, 60),
    RGBColor(214, 39, 40),
    RGBColor(230, 140, 0),
    RGBColor(150, 90, 30),
    RGBColor(140, 60, 180),
    RGBColor(170, 170, 170),
    RGBColor(110, 110, 110),
    RGBColor(0, 0, 0),
];

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Time for a message by its size, on one thread.
pub(crate) fn latency(file: &Path, figures: &Figures, plan: &Plan) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, (1200, 640)).into_drawing_area();
    root.fill(&WHITE)?;
    let (chart, legend) = root.split_vertically(560);
    for (area, operation) in chart.split_evenly((1, 2)).iter().zip(Operation::BOTH) {
        let title = format!("{}: time for a message", operation.name());
        panel(area, &title, plan, &time_label, &|who, size| figures.of(who, operation, size, 1))?;
    }
    key(&legend)?;
    Ok(root.present()?)
}

/// Bytes a second by size, on one thread and on two.
pub(crate) fn throughput(
    file: &Path,
    figures: &Figures,
    plan: &Plan,
) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, (1200, 1100)).into_drawing_area();
    root.fill(&WHITE)?;
    let (charts, legend) = root.split_vertically(1020);
    let panels = [1, 2]
        .into_iter()
        .flat_map(|threads| Operation::BOTH.map(|operation| (threads, operation)));
    for (area, (threads, operation)) in charts.split_evenly((2, 2)).iter().zip(panels) {
        let title = format!(
            "{}, {threads} thread{}",
            operation.name(),
            if threads == 1 { "" } else { "s" }
        );
        let rate = |who, size| length(size) * 1e9 / figures.of(who, operation, size, threads);
        panel(area, &title, plan, &rate_label, &rate)?;
    }
    key(&legend)?;
    Ok(root.present()?)
}

/// Requests to KMS by workload; the axis is logarithmic.
pub(crate) fn requests(file: &Path, workloads: &[Workload]) -> Result<(), Box<dyn Error>> {
    let root = SVGBackend::new(file, (1200, 480)).into_drawing_area();
    root.fill(&WHITE)?;
    let (chart, legend) = root.split_vertically(430);
    let most =
        workloads.iter().flat_map(|workload| workload.requests.iter().copied()).max().unwrap_or(1);
    let (groups, highest) = (workloads.len(), count(most) * 2.0);
    let mut chart = ChartBuilder::on(&chart)
        .caption("requests to KMS, each message sealed and opened", ("sans-serif", 22))
        .margin(14)
        .x_label_area_size(30)
        .y_label_area_size(72)
        .build_cartesian_2d(0.0..count(groups as u64), (0.5..highest).log_scale())?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .disable_x_axis()
        .y_label_formatter(&|requests| format!("{requests:.0}"))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 14))
        .draw()?;
    let side = 0.8 / count(SIDES.len() as u64);
    for (workload, group) in workloads.iter().zip(0..) {
        for ((requests, who), place) in workload.requests.iter().zip(SIDES).zip(0..) {
            let left = count(group) + 0.1 + side * count(place);
            let bar = [(left, 0.5), (left + 0.9 * side, count(*requests))];
            chart.draw_series([Rectangle::new(bar, color(who).filled())])?;
            let label =
                Text::new(requests.to_string(), (left, count(*requests) * 1.2), ("sans-serif", 14));
            chart.draw_series([label])?;
        }
        let (messages, contexts) = (workload.messages, workload.contexts);
        let plural = |count| if count == 1 { "" } else { "s" };
        let title = format!(
            "{messages} message{}, {contexts} context{}",
            plural(messages),
            plural(contexts)
        );
        let place = chart.backend_coord(&(count(group) + 0.1, 0.5));
        root.draw(&Text::new(title, (place.0, place.1 + 8), ("sans-serif", 16)))?;
    }
    for (place, who) in legend.split_evenly((1, SIDES.len())).iter().zip(SIDES) {
        place.draw(&Rectangle::new([(30, 12), (56, 24)], color(who).filled()))?;
        place.draw(&Text::new(who.label(), (64, 10), ("sans-serif", 16)))?;
    }
    Ok(root.present()?)
}

fn color(who: Who) -> RGBColor {
    Who::COMPARED.into_iter().position(|other| other == who).map_or(BLACK, |at| COLORS[at])
}

/// One line for each of those compared, over the sizes; both axes are logarithmic.
fn panel(
    area: &Area<'_>,
    title: &str,
    plan: &Plan,
    label: &dyn Fn(f64) -> String,
    value: &dyn Fn(Who, usize) -> f64,
) -> Result<(), Box<dyn Error>> {
    let all = || {
        Who::COMPARED
            .into_iter()
            .flat_map(|who| plan.sizes.iter().map(move |&size| value(who, size)))
    };
    let least = 10_f64.powf(all().fold(f64::INFINITY, f64::min).log10().floor());
    let most = 10_f64.powf(all().fold(0.0, f64::max).log10().ceil());
    let sizes = length(plan.sizes[0])..length(plan.sizes[plan.sizes.len() - 1]);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 22))
        .margin(14)
        .margin_right(28)
        .x_label_area_size(40)
        .y_label_area_size(72)
        .build_cartesian_2d(sizes.log_scale().base(4.0), (least..most).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("plaintext")
        .x_label_formatter(&|size| bytes(whole(*size)))
        .y_label_formatter(&|value| label(*value))
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    for (who, color) in Who::COMPARED.into_iter().zip(COLORS) {
        let points: Vec<_> =
            plan.sizes.iter().map(|&size| (length(size), value(who, size))).collect();
        chart.draw_series(LineSeries::new(points.clone(), color.stroke_width(2)))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, color.filled())))?;
    }
    Ok(())
}

/// Whose color is which.
fn key(area: &Area<'_>) -> Result<(), Box<dyn Error>> {
    for (place, (who, color)) in
        area.split_evenly((2, 6)).iter().zip(Who::COMPARED.into_iter().zip(COLORS))
    {
        place.draw(&PathElement::new([(30, 18), (60, 18)], color.stroke_width(3)))?;
        place.draw(&Text::new(who.label(), (68, 10), ("sans-serif", 16)))?;
    }
    Ok(())
}

/// Labels are powers of ten: no digits after the point.
fn time_label(nanos: f64) -> String {
    time(nanos).replace(".00", "").replace(".0", "")
}

fn rate_label(rate: f64) -> String {
    if rate >= 1e9 {
        format!("{:.0} GB/s", rate / 1e9)
    } else if rate >= 1e6 {
        format!("{:.0} MB/s", rate / 1e6)
    } else {
        format!("{:.0} kB/s", rate / 1e3)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a point on an axis")]
fn count(count: u64) -> f64 {
    count as f64
}

#[expect(clippy::cast_precision_loss, reason = "a point on an axis")]
fn length(size: usize) -> f64 {
    size as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a label on an axis")]
fn whole(size: f64) -> usize {
    size.round() as usize
}
