// SPDX-License-Identifier: Apache-2.0
#pragma once

// A line plot with a linear x axis and a logarithmic y axis as SVG text. Every series is labelled where it ends, so
// that nobody has to match colours with a legend; markers differ in shape, too. The picture brings its own background
// and switches colours with the reader's light or dark theme.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

namespace svg {

enum class Marker { circle, square, diamond, triangle, halo };  // a halo surrounds another series' marker

struct Series {
  std::string name;
  std::string light;  // colour on a light background
  std::string dark;
  Marker marker = Marker::circle;
  bool dashed = false;
  std::vector<std::pair<double, double>> points;  // by ascending x; y > 0
};

struct Plot {
  std::string title;
  std::string subtitle;
  std::string x_label;
  std::string y_label;
  std::vector<Series> series;
};

namespace detail {

inline std::string number(double x) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.4g", x);
  return buffer;
}

inline std::string at(double x) {
  char buffer[32];
  std::snprintf(buffer, sizeof buffer, "%.1f", x);
  return buffer;
}

inline std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

inline std::string text(double x, double y, const std::string& classes, const std::string& more,
                        const std::string& content) {
  return "<text x=\"" + at(x) + "\" y=\"" + at(y) + "\" class=\"" + classes + "\"" + more + ">" + escape(content) +
         "</text>\n";
}

inline std::string line(double x0, double y0, double x1, double y1, const std::string& classes) {
  return "<line x1=\"" + at(x0) + "\" y1=\"" + at(y0) + "\" x2=\"" + at(x1) + "\" y2=\"" + at(y1) + "\" class=\"" +
         classes + "\"/>\n";
}

inline std::string marker(Marker kind, double x, double y, const std::string& classes) {
  const std::string end = "\" class=\"" + classes + "\"/>\n";
  switch (kind) {
    case Marker::circle:
      return "<circle cx=\"" + at(x) + "\" cy=\"" + at(y) + "\" r=\"5" + end;
    case Marker::square:
      return "<rect x=\"" + at(x - 4.5) + "\" y=\"" + at(y - 4.5) + "\" width=\"9\" height=\"9" + end;
    case Marker::diamond:
      return "<path d=\"M" + at(x) + " " + at(y - 6.5) + "l6.5 6.5l-6.5 6.5l-6.5 -6.5z" + end;
    case Marker::triangle:
      return "<path d=\"M" + at(x) + " " + at(y - 6) + "l6 10.5h-12z" + end;
    default:
      return "<circle cx=\"" + at(x) + "\" cy=\"" + at(y) + "\" r=\"9" + end;
  }
}

}  // namespace detail

[[nodiscard]] inline std::string draw(const Plot& plot) {
  using namespace detail;
  constexpr double kWidth = 880, kHeight = 520;
  constexpr double kLeft = 94, kRight = 716, kTop = 78, kBottom = 452;  // of the plot area; labels stand to its right
  constexpr double kLabelGap = 19;

  double x_low = 1e300, x_high = -1e300, y_low = 1e300, y_high = 0;
  for (const Series& s : plot.series)
    for (const auto& [x, y] : s.points) {
      x_low = std::min(x_low, x);
      x_high = std::max(x_high, x);
      y_low = std::min(y_low, y);
      y_high = std::max(y_high, y);
    }
  x_low = std::floor(2 * (x_low - 0.1)) / 2;
  x_high = std::ceil(2 * (x_high + 0.1)) / 2;
  y_low /= 1.25;
  y_high *= 1.25;
  const auto px = [&](double x) { return kLeft + (x - x_low) / (x_high - x_low) * (kRight - kLeft); };
  const auto py = [&](double y) { return kBottom - std::log(y / y_low) / std::log(y_high / y_low) * (kBottom - kTop); };

  // Colours live in classes, because a presentation attribute cannot follow the theme.
  std::string light, dark;
  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const std::string n = std::to_string(i);
    light += ".s" + n + "{stroke:" + plot.series[i].light + "}.f" + n + "{fill:" + plot.series[i].light + "}";
    dark += ".s" + n + "{stroke:" + plot.series[i].dark + "}.f" + n + "{fill:" + plot.series[i].dark + "}";
  }
  std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 " + number(kWidth) + " " +
                    number(kHeight) + "\" width=\"" + number(kWidth) + "\" height=\"" + number(kHeight) +
                    "\" role=\"img\" aria-label=\"" + escape(plot.title) + "\">\n<style>\n" +
                    "text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:14px}\n"
                    ".title{font-size:19px;font-weight:600}.label{font-weight:600}\n"
                    ".axis{stroke-width:1.2}.grid{stroke-width:1}.curve{fill:none;stroke-width:2.4;stroke-linejoin:"
                    "round}.dashed{stroke-dasharray:6 5}.leader{stroke-width:1}\n"
                    ".halo{fill:none;stroke-width:1.4}.back{fill:#fff;stroke:#d1d9e0}.text{fill:#1f2328}.quiet{fill:#"
                    "59636e}.axis{stroke:#59636e}"
                    ".grid{stroke:#e6eaef}.ring{stroke:#fff;stroke-width:1.5}" +
                    light +
                    "\n@media(prefers-color-scheme:dark){.back{fill:#0d1117;stroke:#3d444d}.text{fill:#f0f6fc}"
                    ".quiet{fill:#9198a1}.axis{stroke:#9198a1}.grid{stroke:#262c36}.ring{stroke:#0d1117}" +
                    dark + "}\n</style>\n";
  out += "<rect x=\"0.5\" y=\"0.5\" width=\"" + at(kWidth - 1) + "\" height=\"" + at(kHeight - 1) +
         "\" rx=\"8\" class=\"back\"/>\n";
  out += text(24, 34, "title text", "", plot.title);
  out += text(24, 56, "quiet", "", plot.subtitle);

  for (int decade = static_cast<int>(std::floor(std::log10(y_low))); decade <= std::log10(y_high); ++decade)
    for (const double digit : {1.0, 2.0, 5.0}) {
      const double y = digit * std::pow(10.0, decade);
      if (y < y_low || y > y_high) continue;
      out += line(kLeft, py(y), kRight, py(y), "grid");
      out += text(kLeft - 10, py(y) + 5, "quiet", " text-anchor=\"end\"", number(y));
    }
  for (int k = 0; x_low + 0.5 * k <= x_high + 1e-9; ++k) {
    const double x = x_low + 0.5 * k;
    out += line(px(x), kBottom, px(x), kBottom + 5, "axis");
    out += text(px(x), kBottom + 22, "quiet", " text-anchor=\"middle\"", number(x));
  }
  out += line(kLeft, kBottom, kRight, kBottom, "axis");
  out += text((kLeft + kRight) / 2, kHeight - 20, "text", " text-anchor=\"middle\"", plot.x_label);
  const std::string middle = at((kTop + kBottom) / 2);
  out += text(26, (kTop + kBottom) / 2, "text", " text-anchor=\"middle\" transform=\"rotate(-90 26 " + middle + ")\"",
              plot.y_label);

  for (std::size_t i = 0; i < plot.series.size(); ++i) {
    const Series& s = plot.series[i];
    std::string points;
    for (const auto& [x, y] : s.points) points += at(px(x)) + "," + at(py(y)) + " ";
    out += "<polyline points=\"" + points + "\" class=\"curve s" + std::to_string(i) + (s.dashed ? " dashed" : "") +
           "\"/>\n";
  }
  for (std::size_t i = 0; i < plot.series.size(); ++i)
    for (const auto& [x, y] : plot.series[i].points)
      out += marker(plot.series[i].marker, px(x), py(y),
                    (plot.series[i].marker == Marker::halo ? "halo s" : "ring f") + std::to_string(i));

  // Labels in the order of the ends of the curves, pushed apart where they would touch, and joined to their curves.
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < plot.series.size(); ++i)
    if (!plot.series[i].points.empty()) order.push_back(i);
  const auto end_of = [&](std::size_t i) { return py(plot.series[i].points.back().second); };
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return end_of(a) < end_of(b); });
  std::vector<double> place;
  place.reserve(order.size());
  for (const std::size_t i : order) place.push_back(end_of(i));
  for (int pass = 0; pass < 200; ++pass)  // neighbours share the room they lack
    for (std::size_t k = 0; k + 1 < place.size(); ++k)
      if (const double lack = kLabelGap - (place[k + 1] - place[k]); lack > 0) {
        place[k] -= lack / 2;
        place[k + 1] += lack / 2;
      }
  if (!place.empty() && place.back() > kBottom)
    for (double& y : place) y -= std::max(0.0, place.back() - kBottom);
  for (std::size_t k = 0; k < order.size(); ++k) {
    const std::string n = std::to_string(order[k]);
    const Series& s = plot.series[order[k]];
    out += line(px(s.points.back().first) + 9, end_of(order[k]), kRight + 8, place[k], "leader s" + n);
    out += text(kRight + 13, place[k] + 5, "label f" + n, "", s.name);
  }
  return out + "</svg>\n";
}

}  // namespace svg
