import Foundation
import TestSupport
import Testing

/// Whether memory, descriptors and latency have stayed what they were. It is judged by the samples of the last 40 % of the
/// time: in the second half no fault ends a process, and its first fifth is left out, since processes have just been started.
struct SoakVerdict {
    /// Whether something has risen, by the slope of Theil and Sen, the median of the slopes between each two samples, which
    /// single ones do not change.
    struct Judgement {
        var name: String
        var unit: String
        var median = 0.0
        var rise = 0.0
        var allowed = 0.0
        /// Whether there are enough samples.
        var isJudged = false
        var isFlat: Bool { rise <= allowed }
        var text: String {
            "\(name): \(short(median)) \(unit), \(short(rise)) more at the end, allowed \(short(allowed))"
        }

        static let fewestPoints = 5

        /// - Parameters:
        ///   - share: how much of the median a rise may be; or `least`, where that is more.
        init(
            _ name: String, _ points: [(seconds: Double, value: Double)], unit: String, share: Double, least: Double
        ) {
            (self.name, self.unit) = (name, unit)
            guard points.count >= Self.fewestPoints, let first = points.first, let last = points.last else { return }
            var slopes: [Double] = []
            for (index, one) in points.enumerated() {
                for other in points[(index + 1)...] where other.seconds > one.seconds {
                    slopes.append((other.value - one.value) / (other.seconds - one.seconds))
                }
            }
            func middle(_ values: [Double]) -> Double { values.sorted()[values.count / 2] }
            guard !slopes.isEmpty else { return }
            isJudged = true
            median = middle(points.map(\.value))
            rise = middle(slopes) * (last.seconds - first.seconds)
            allowed = max(median * share, least)
        }
    }

    /// A latency is not judged where other programs have used more than this share of the processors: it says little of the
    /// daemon then.
    static let mostOfOthers = 0.1

    let judgements: [Judgement]

    /// - Parameter length: of the whole soak, in seconds.
    init(on samples: [Soak.Sample], length: Double) {
        let judged = samples.filter { $0.seconds > length * 0.6 }
        func points(_ value: (Soak.Sample) -> Double?) -> [(seconds: Double, value: Double)] {
            judged.compactMap { sample in value(sample).map { (sample.seconds, $0) } }
        }
        func latencies(_ value: (Soak.Sample) -> Double?) -> [(seconds: Double, value: Double)] {
            points { $0.others > Self.mostOfOthers ? nil : value($0) }
        }
        let members = Set(judged.flatMap { $0.memory.keys }).sorted()
        let works = Set(judged.flatMap { $0.latency.keys }).sorted()
        let memory = members.map { name in
            Judgement(
                "memory of \(name)", points { $0.memory[name].map { Double($0) / 1_024 } }, unit: "MB", share: 0.1,
                least: 2)
        }
        let descriptors = members.map { name in
            Judgement(
                "descriptors of \(name)", points { $0.descriptors[name].map(Double.init) }, unit: "", share: 0.1,
                least: 4)
        }
        let latency = works.flatMap { name in
            [
                Judgement(
                    "\(name), median", latencies { $0.latency[name].map { $0.median * 1_000 } }, unit: "ms",
                    share: 0.25, least: 1),
                Judgement(
                    "\(name), 99 %", latencies { $0.latency[name].map { $0.p99 * 1_000 } }, unit: "ms", share: 0.5,
                    least: 10),
            ]
        }
        judgements = memory + descriptors + latency
    }

    var text: String {
        let judged = judgements.filter(\.isJudged)
        if judged.isEmpty { return "There are too few samples of the second half to be judged." }
        let count = judged.count { !$0.isFlat }
        let outcome = count == 0 ? "Flat" : "Not flat: \(count) of \(judged.count)"
        let missing = judgements.count - judged.count
        return missing == 0 ? "\(outcome)." : "\(outcome), but \(missing) of \(judgements.count) have too few samples."
    }
}

/// A number as people read it.
func short(_ value: Double) -> String {
    abs(value) >= 100 ? String(Int(value.rounded())) : String((value * 100).rounded() / 100)
}

@Suite struct SoakVerdictTests {
    /// A sample each 20 s of an hour, where the daemon has been restarted at half of it.
    private func samples(_ change: (Int, inout Soak.Sample) -> Void = { _, _ in }) -> [Soak.Sample] {
        (1...180).map { number in
            // It goes up and down by a tenth of what it is, or less.
            let noise = Double(number * 7 % 11 - 5) / 50
            let early = number < 90 ? 0.5 : 1
            var sample = Soak.Sample(
                seconds: Double(number) * 20, fault: "reloads", wait: 0.1,
                memory: ["main": Int(30_000 * early * (1 + noise))], descriptors: ["main": 40 + number % 3],
                latency: ["echo": .init(perSecond: 1_000, median: 0.001 * (1 + noise), p99: 0.02, worst: 0.05)],
                others: 0.01, runs: 3, failed: 0)
            change(number, &sample)
            return sample
        }
    }

    private func verdict(_ samples: [Soak.Sample]) -> (text: String, bad: [String]) {
        let verdict = SoakVerdict(on: samples, length: 3_600)
        return (verdict.text, verdict.judgements.filter { !$0.isFlat }.map(\.name))
    }

    @Test func `what goes up and down is flat, and so is what was smaller before the last restart`() {
        #expect(verdict(samples()) == ("Flat.", []))
    }

    @Test func `memory that grows without an end is found`() throws {
        let leak = samples { number, sample in sample.memory["main", default: 0] += number * 100 }
        #expect(verdict(leak) == ("Not flat: 1 of 4.", ["memory of main"]))
        let judgement = try #require(SoakVerdict(on: leak, length: 3_600).judgements.first)
        // 100 kB with each of the 72 samples of the last 40 %.
        #expect(abs(judgement.rise - 71 * 100 / 1_024.0) < 0.5)
    }

    @Test func `one descriptor that is lost every three minutes is found`() {
        let leak = samples { number, sample in sample.descriptors["main", default: 0] += number / 9 }
        #expect(verdict(leak) == ("Not flat: 1 of 4.", ["descriptors of main"]))
    }

    @Test func `latency that rises is found, of all and of the slowest`() {
        let slow = samples { number, sample in
            let factor = 1 + Double(max(0, number - 100)) / 20
            sample.latency["echo"]?.median *= factor
            sample.latency["echo"]?.p99 *= factor
        }
        #expect(verdict(slow) == ("Not flat: 2 of 4.", ["echo, median", "echo, 99 %"]))
    }

    @Test func `a few samples that are far from the others change nothing`() {
        let outliers = samples { number, sample in
            guard number > 150, number % 4 == 0 else { return }
            sample.memory["main"] = 300_000
            sample.latency["echo"]?.p99 = 3
        }
        #expect(verdict(outliers) == ("Flat.", []))
    }

    @Test func `what becomes less is flat`() {
        let falling = samples { number, sample in sample.memory["main", default: 0] -= number * 60 }
        #expect(verdict(falling) == ("Flat.", []))
    }

    @Test func `latency is not judged while others had the processors, and that is said`() {
        let busy = samples { number, sample in
            sample.others = 0.5
            sample.latency["echo"]?.median *= 1 + Double(number)
        }
        #expect(verdict(busy) == ("Flat, but 2 of 4 have too few samples.", []))
    }

    @Test func `a short run is not called flat`() {
        #expect(
            verdict(Array(samples().suffix(SoakVerdict.Judgement.fewestPoints - 1)))
                == ("There are too few samples of the second half to be judged.", []))
    }
}
