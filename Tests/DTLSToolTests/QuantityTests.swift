import Testing

@testable import dtls

@Suite struct QuantityTests {
    @Test(arguments: [
        (0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567"), (-1_000, "-1,000"),
    ])
    func `a count has its digits in groups of three`(number: Int, text: String) {
        #expect(Quantity.count(number) == text)
    }

    @Test(
        arguments: [
            (0, "0 B"), (1_023, "1,023 B"), (1_024, "1.0 KiB"), (10_035, "9.8 KiB"), (1_048_575, "1.0 MiB"),
            (104_857_600, "100 MiB"), (UInt64.max, "16,384 PiB"),
        ] as [(UInt64, String)])
    func `bytes are in the unit that leaves few digits`(number: UInt64, text: String) {
        #expect(Quantity.bytes(number) == text)
    }

    @Test(
        arguments: [
            (0, "0"), (0.01, "<0.1"), (0.44, "0.4"), (12, "12"), (1_234, "1,234"), (56_700, "56.7k"),
            (1_200_000, "1.2M"),
        ] as [(Double, String)])
    func `a rate has at most a few digits`(rate: Double, text: String) {
        #expect(Quantity.rate(rate) == text)
    }

    @Test(
        arguments: [
            (0.25, "0.3s"), (45, "45s"), (725, "12m 5s"), (3_600, "1h"), (11_530, "3h 12m"), (356_400, "4d 3h"),
            (-1, "?"),
            (.infinity, "?"),
        ] as [(Double, String)])
    func `an age has its two largest units`(seconds: Double, text: String) {
        #expect(Quantity.duration(seconds: seconds) == text)
    }

    @Test(
        arguments: [
            (0.000_34, "340 µs"), (0.001, "1 ms"), (0.001_25, "1.3 ms"), (2.5, "2.5 s"), (.nan, "?"),
        ] as [(Double, String)])
    func `a latency is in the unit that fits it`(seconds: Double, text: String) {
        #expect(Quantity.latency(seconds: seconds) == text)
    }

    @Test(arguments: [("90", 90), ("90s", 90), ("1.5m", 90), ("2h", 7_200), ("1d", 86_400)] as [(String, Double)])
    func `a time on the command line has a unit or is in seconds`(argument: String, seconds: Double) {
        #expect(TimeSpan(argument: argument)?.seconds == seconds)
    }

    @Test(arguments: ["", "m", "-5", "5 m", "nan", "0x10", "1e3", "5w"])
    func `a time that is none is refused`(argument: String) {
        #expect(TimeSpan(argument: argument) == nil)
    }
}
