/// Metrics as Prometheus reads them.
struct MetricsDocument {
    /// The two formats that Prometheus asks for in its header Accept.
    enum Format {
        /// OpenMetrics 1.0.
        case openMetrics
        /// The text format 0.0.4 of Prometheus.
        case prometheusText

        /// What the sender of this header Accept can read.
        init(accept: String) {
            self = accept.contains("application/openmetrics-text") ? .openMetrics : .prometheusText
        }

        var contentType: String {
            switch self {
            case .openMetrics: "application/openmetrics-text; version=1.0.0; charset=utf-8"
            case .prometheusText: "text/plain; version=0.0.4; charset=utf-8"
            }
        }
    }

    enum Kind: String { case counter, gauge, histogram }

    typealias Labels = [(name: String, value: String)]

    private struct Sample {
        /// What follows the name of the family: `_bucket`.
        var suffix: String
        var labels: Labels
        /// As the formats write numbers.
        var value: String
    }

    private struct Family {
        var kind: Kind
        var help: String
        var unit: String?
        var samples: [Sample] = []
        /// Series that there are already: one that comes twice would make the whole document invalid.
        var series: Set<String> = []
    }

    private var families: [String: Family] = [:]

    // MARK: Adding

    /// - Parameters:
    ///   - name: without the prefix `dtlsd_`. A counter's ends in `_total`, and one with a unit in that, or in that before
    ///     `_total`.
    ///   - help: one sentence.
    mutating func add(
        _ kind: Kind, _ name: String, _ help: String, unit: String? = nil, _ labels: Labels, _ value: UInt64
    ) {
        add(kind, name, help, unit, Sample(suffix: "", labels: labels, value: "\(value)"))
    }

    mutating func add(
        _ kind: Kind, _ name: String, _ help: String, unit: String? = nil, _ labels: Labels = [], measure: Double
    ) {
        add(kind, name, help, unit, Sample(suffix: "", labels: labels, value: "\(measure)"))
    }

    /// - Parameters:
    ///   - bounds: upper bounds of the buckets, rising.
    ///   - counts: what is in each bucket alone, and last what is above all bounds.
    mutating func add(
        histogram name: String, _ help: String, unit: String?, _ labels: Labels, bounds: [Double], counts: [UInt64],
        sum: Double
    ) {
        guard counts.count == bounds.count + 1 else { return }
        var total: UInt64 = 0
        for (count, bound) in zip(counts, bounds.map { "\($0)" } + ["+Inf"]) {
            total &+= count
            add(
                .histogram, name, help, unit,
                Sample(suffix: "_bucket", labels: labels + [("le", bound)], value: "\(total)"))
        }
        add(.histogram, name, help, unit, Sample(suffix: "_sum", labels: labels, value: "\(sum)"))
        add(.histogram, name, help, unit, Sample(suffix: "_count", labels: labels, value: "\(total)"))
    }

    private mutating func add(_ kind: Kind, _ name: String, _ help: String, _ unit: String?, _ sample: Sample) {
        let name = "dtlsd_" + name
        guard Self.isName(name) else { return }
        var family = families[name] ?? Family(kind: kind, help: help, unit: unit)
        guard family.kind == kind, family.series.insert(sample.suffix + Self.text(sample.labels)).inserted else {
            return
        }
        family.samples.append(sample)
        families[name] = family
    }

    /// Names come from the daemon, which may be of another version.
    private static func isName(_ name: String) -> Bool {
        name.utf8.allSatisfy { (97...122).contains($0) || (48...57).contains($0) || $0 == 95 }
    }

    // MARK: Writing

    /// The names of all families, as they are in expressions: `dtlsd_handshakes_total`, `…_seconds_bucket`.
    var sampleNames: Set<String> {
        Set(families.flatMap { name, family in family.samples.map { name + $0.suffix } })
    }

    func text(_ format: Format) -> String {
        var text = ""
        for (name, family) in families.sorted(by: { $0.key < $1.key }) {
            // OpenMetrics calls the family of a counter by its name without _total.
            let title = format == .openMetrics && family.kind == .counter ? Self.withoutTotal(name) : name
            text += "# TYPE \(title) \(family.kind.rawValue)\n"
            if format == .openMetrics, let unit = family.unit, title.hasSuffix("_\(unit)") {
                text += "# UNIT \(title) \(unit)\n"
            }
            text += "# HELP \(title) \(Self.escaped(family.help, quotes: format == .openMetrics))\n"
            for sample in family.samples {
                text += "\(name)\(sample.suffix)\(Self.text(sample.labels)) \(sample.value)\n"
            }
        }
        return format == .openMetrics ? text + "# EOF\n" : text
    }

    private static func withoutTotal(_ name: String) -> String {
        name.hasSuffix("_total") ? String(name.dropLast("_total".count)) : name
    }

    private static func text(_ labels: Labels) -> String {
        labels.isEmpty
            ? "" : "{" + labels.map { "\($0.name)=\"\(escaped($0.value, quotes: true))\"" }.joined(separator: ",") + "}"
    }

    private static func escaped(_ text: String, quotes: Bool) -> String {
        var result = ""
        for scalar in text.unicodeScalars {
            switch scalar {
            case "\\": result += "\\\\"
            case "\n": result += "\\n"
            case "\"" where quotes: result += "\\\""
            default: result.unicodeScalars.append(scalar)
            }
        }
        return result
    }
}
