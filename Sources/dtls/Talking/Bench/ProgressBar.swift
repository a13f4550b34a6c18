import CLinux
import Glibc
import Primitives

/// A line on a terminal that shows how far something is. It is written over again and again, and taken away at the end.
struct ProgressBar {
    private let isShown: Bool

    /// - Parameter isShown: false where standard error is no terminal, or somebody wants quiet.
    init(isShown: Bool) { self.isShown = isShown }

    /// - Parameters:
    ///   - done: 0 to 1.
    ///   - text: what stands behind the bar.
    func show(_ done: Double, _ text: String) {
        if isShown { Standard.error("\r\u{1b}[K\(Self.line(done, text, columns: Self.columns))") }
    }

    func end() { if isShown { Standard.error("\r\u{1b}[K") } }

    /// The line in at most that many columns, less one so that no terminal wraps it.
    static func line(_ done: Double, _ text: String, columns: Int) -> String {
        let done = min(1, max(0, done.isFinite ? done : 0))
        let width = min(30, max(5, columns - text.count - 11))
        let filled = Int((done * Double(width)).rounded(.down))
        let bar = String(repeating: "#", count: filled) + String(repeating: ".", count: width - filled)
        let percent = "\(Int(done * 100))"
        let padding = String(repeating: " ", count: 3 - percent.count)
        return String("[\(bar)] \(padding)\(percent) %  \(text)".prefix(max(1, columns - 1)))
    }

    private static var columns: Int {
        var size = winsize()
        return ioctl(2, UInt(TIOCGWINSZ), &size) == 0 && size.ws_col > 0 ? Int(size.ws_col) : 80
    }
}
