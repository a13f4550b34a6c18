import Glibc
import Primitives

/// A drawing of a measurement in SVG: latency over time, and its distribution. It is one file without anything from
/// elsewhere, and follows the reader's light or dark scheme.
struct LatencyPlot {
    let result: BenchResult

    private static let width = 900.0
    private static let height = 640.0

    /// A rectangle with axes: where things are drawn, and what its sides mean.
    struct Panel {
        var left: Double
        var top: Double
        var width: Double
        var height: Double

        func x(_ part: Double) -> Double { left + width * min(1, max(0, part)) }
        func y(_ part: Double) -> Double { top + height * (1 - min(1, max(0, part))) }
    }

    var svg: String {
        let upper = Panel(left: 80, top: 90, width: 780, height: 210)
        let lower = Panel(left: 80, top: 380, width: 780, height: 200)
        let noun = result.scenario == .echo ? "echoes" : "handshakes"
        return """
            <svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 \(Self.number(Self.width)) \(Self.number(Self.height))" \
            font-family="system-ui, sans-serif" font-size="13" role="img" aria-label="\(Self.escape(summary(noun)))">
            <style>
            svg { background: #ffffff; color: #1b1f24; color-scheme: light dark }
            text { fill: currentColor } .muted { opacity: .7 } .grid { stroke: currentColor; stroke-opacity: .18 }
            .p50 { stroke: #0969da; fill: none } .p99 { stroke: #bc4c00; fill: none } .max { stroke: #cf222e; fill: none }
            .area { fill: #0969da; fill-opacity: .12; stroke: none } path, polyline { stroke-width: 1.6; stroke-linejoin: round }
            .max { stroke-dasharray: 3 3 }
            @media (prefers-color-scheme: dark) { svg { background: #0d1117; color: #e6edf3 }
            .p50 { stroke: #58a6ff } .p99 { stroke: #f0883e } .max { stroke: #ff7b72 } .area { fill: #58a6ff } }
            </style>
            <text x="20" y="32" font-size="18" font-weight="600">\(Self.escape("\(noun) of \(result.server)"))</text>
            <text x="20" y="54" class="muted">\(Self.escape(summary(noun)))</text>
            \(timeline(upper))
            \(distribution(lower))
            </svg>

            """
    }

    private func summary(_ noun: String) -> String {
        "\(result.perSecond.text(digits: 0)) \(noun) a second; p50 \(Self.label(result.latency.p50Seconds)),"
            + " p99 \(Self.label(result.latency.p99Seconds)), worst \(Self.label(result.latency.maxSeconds));"
            + " \(counted(result.connections, "connection")), \(result.protocolVersion), \(result.cipher)"
    }

    // MARK: Panels

    private func timeline(_ panel: Panel) -> String {
        var slices = result.timeline.filter { $0.count > 0 }
        // The last one is a part of a slice: a few messages say little of their like.
        if slices.count > 2, let last = slices.last, last.count < slices[slices.count - 2].count / 4 {
            slices.removeLast()
        }
        let end = max(result.durationSeconds, slices.last?.startSeconds ?? 0, 0.001)
        let top = LogScale(slices.flatMap { [$0.p50Seconds, $0.p99Seconds, $0.maxSeconds] })
        func line(_ name: String, _ value: (LatencyRecord.Slice) -> Double) -> String {
            let points = slices.map {
                "\(Self.number(panel.x($0.startSeconds / end))),\(Self.number(panel.y(top.part(value($0)))))"
            }
            return "<polyline class=\"\(name)\" points=\"\(points.joined(separator: " "))\"/>"
        }
        let times = (0...5).map { index -> String in
            let part = Double(index) / 5
            return Self.text(
                (end * part).text(digits: end < 10 ? 1 : 0) + " s", x: panel.x(part), y: panel.top + panel.height + 20,
                anchor: "middle")
        }
        return """
            \(Self.text("Latency over time", x: panel.left, y: panel.top - 12, weight: true))
            \(legend(panel))
            \(grid(panel, top))
            \(times.joined(separator: "\n"))
            \(line("max") { $0.maxSeconds })
            \(line("p99") { $0.p99Seconds })
            \(line("p50") { $0.p50Seconds })
            """
    }

    private func legend(_ panel: Panel) -> String {
        [("p50", "median"), ("p99", "99 %"), ("max", "worst")].enumerated().map { index, entry in
            let x = panel.left + panel.width - 270 + Double(index) * 95
            return """
                <line class="\(entry.0)" x1="\(Self.number(x))" x2="\(Self.number(x + 24))" y1="\(Self.number(panel.top - 16))" \
                y2="\(Self.number(panel.top - 16))" stroke-width="2"/>\
                \(Self.text(entry.1, x: x + 30, y: panel.top - 12))
                """
        }.joined(separator: "\n")
    }

    /// The latency that a share of all does not exceed. The share's axis is stretched towards 100 %, as that of HDR
    /// histograms is: each step halves what is left twice or so.
    private func distribution(_ panel: Panel) -> String {
        let ticks = result.distribution
        let scale = LogScale(ticks.map(\.seconds))
        let last = ticks.last { $0.percentile < 100 }?.percentile ?? 90
        /// Powers of ten that the share is away from 100 %.
        func nines(_ percentile: Double) -> Double {
            percentile >= 100 ? 9 : LogScale.logarithm(100 / (100 - percentile))
        }
        let most = max(1, nines(last))
        let points = ticks.map {
            (panel.x(min(1, nines($0.percentile) / most)), panel.y(scale.part($0.seconds)))
        }
        let path = points.map { "\(Self.number($0.0)),\(Self.number($0.1))" }.joined(separator: " L")
        let floor = Self.number(panel.top + panel.height)
        let area =
            points.isEmpty
            ? ""
            : "<path class=\"area\" d=\"M\(Self.number(panel.left)),\(floor) L\(path) L\(Self.number(points.last?.0 ?? panel.left)),\(floor) Z\"/>"
        let marks = [0, 50, 90, 99, 99.9, 99.99, 99.999].filter { nines($0) <= most + 0.01 }.map { share in
            let x = panel.x(nines(share) / most)
            return """
                <line class="grid" x1="\(Self.number(x))" x2="\(Self.number(x))" y1="\(Self.number(panel.top))" y2="\(floor)"/>\
                \(Self.text("\(Self.short(share)) %", x: x, y: panel.top + panel.height + 20, anchor: "middle"))
                """
        }
        return """
            \(Self.text("Distribution: so many per cent were not slower", x: panel.left, y: panel.top - 12, weight: true))
            \(grid(panel, scale))
            \(marks.joined(separator: "\n"))
            \(area)
            <path class="p50" d="\(points.isEmpty ? "" : "M\(path)")"/>
            """
    }

    private func grid(_ panel: Panel, _ scale: LogScale) -> String {
        scale.marks.map { mark in
            let y = panel.y(scale.part(mark))
            return """
                <line class="grid" x1="\(Self.number(panel.left))" x2="\(Self.number(panel.left + panel.width))" \
                y1="\(Self.number(y))" y2="\(Self.number(y))"/>\
                \(Self.text(Self.label(mark), x: panel.left - 8, y: y + 4, anchor: "end"))
                """
        }.joined(separator: "\n")
    }

    // MARK: Text

    private static func text(_ text: String, x: Double, y: Double, anchor: String = "start", weight: Bool = false)
        -> String
    {
        "<text x=\"\(number(x))\" y=\"\(number(y))\" text-anchor=\"\(anchor)\"\(weight ? " font-weight=\"600\"" : "")>\(escape(text))</text>"
    }

    private static func number(_ value: Double) -> String {
        value == value.rounded() ? value.text(digits: 0) : value.text(digits: 1)
    }

    private static func short(_ share: Double) -> String {
        var text = share.text(digits: 3)
        while text.hasSuffix("0") { text.removeLast() }
        return text.hasSuffix(".") ? String(text.dropLast()) : text
    }

    /// `"12 µs"`, `"1.5 ms"`, `"2 s"`
    static func label(_ seconds: Double) -> String {
        func short(_ value: Double) -> String {
            value >= 100 ? value.text(digits: 0) : short(value.text(digits: value < 10 ? 2 : 1))
        }
        func short(_ text: String) -> String {
            var text = text
            while text.hasSuffix("0") { text.removeLast() }
            return text.hasSuffix(".") ? String(text.dropLast()) : text
        }
        if seconds <= 0 { return "0" }
        if seconds < 0.001 { return "\(short(seconds * 1e6)) µs" }
        return seconds < 1 ? "\(short(seconds * 1e3)) ms" : "\(short(seconds)) s"
    }

    /// For XML: text that a server has chosen can be in it.
    static func escape(_ text: String) -> String {
        var result = ""
        for scalar in TerminalText.printable(text).unicodeScalars {
            switch scalar {
            case "&": result += "&amp;"
            case "<": result += "&lt;"
            case ">": result += "&gt;"
            case "\"": result += "&quot;"
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }

}

/// A logarithmic axis around some values, from a power of ten to a power of ten or its half or fifth.
struct LogScale {
    private(set) var lowest: Double
    private(set) var highest: Double

    private static let steps = [1.0, 2, 5]

    init(_ values: [Double]) {
        let positive = values.filter { $0 > 0 && $0.isFinite }
        lowest = Self.step(atMost: positive.min() ?? 1e-4)
        highest = Self.step(atLeast: positive.max() ?? 1e-2)
        if highest <= lowest { highest = lowest * 10 }
    }

    /// 0 at the lower end, 1 at the upper one.
    func part(_ value: Double) -> Double {
        guard value > lowest else { return 0 }
        return min(1, Self.logarithm(value / lowest) / Self.logarithm(highest / lowest))
    }

    /// Where lines are drawn: at 1, 2 and 5 times each power of ten, or at the powers alone where these are many.
    var marks: [Double] {
        var marks: [Double] = []
        let isLong = highest / lowest > 2_000
        var power = Self.power(below: lowest)
        while power <= highest * 1.001 {
            for step in isLong ? [1.0] : Self.steps {
                let mark = power * step
                if mark >= lowest * 0.999, mark <= highest * 1.001 { marks.append(mark) }
            }
            power *= 10
        }
        return marks
    }

    private static func power(below value: Double) -> Double {
        var power = 1.0
        while power > value * 1.000_001 { power /= 10 }
        while power * 10 <= value * 1.000_001 { power *= 10 }
        return power
    }

    private static func step(atMost value: Double) -> Double {
        let power = power(below: value)
        return (steps.last { power * $0 <= value * 1.000_001 } ?? 1) * power
    }

    private static func step(atLeast value: Double) -> Double {
        let power = power(below: value)
        return (steps.first { power * $0 >= value * 0.999_999 } ?? 10) * power
    }

    static func logarithm(_ value: Double) -> Double { value > 0 ? log10(value) : 0 }
}
