import ArgumentParser

/// A time on the command line: `90`, `90s`, `10m`, `2h`, `1d`.
struct TimeSpan: ExpressibleByArgument, Equatable, CustomStringConvertible {
    let seconds: Double

    init?(argument: String) {
        let units: [Character: Double] = ["s": 1, "m": 60, "h": 3_600, "d": 86_400]
        let unit = argument.last.flatMap { units[$0] }
        let number = unit == nil ? argument : String(argument.dropLast())
        guard number.allSatisfy({ $0.isASCII && ($0.isNumber || $0 == ".") }), let value = Double(number) else {
            return nil
        }
        seconds = value * (unit ?? 1)
    }

    init(seconds: Double) { self.seconds = seconds }

    var description: String {
        seconds < 60 && seconds == seconds.rounded() ? "\(Int(seconds))s" : Quantity.duration(seconds: seconds)
    }
}
