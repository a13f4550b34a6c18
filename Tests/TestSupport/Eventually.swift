import Foundation

/// A condition did not come true in time.
package struct NeverHappened: Error, CustomStringConvertible {
    package let description: String

    package init(description: String) { self.description = description }
}

/// Asks until `condition` is true.
/// - Parameters:
///   - what: what is waited for, for the error's text.
///   - seconds: the deadline. It is generous: it only decides how soon a broken daemon is given up.
///   - details: what helps to see why it never happened; asked when the deadline has passed.
package func eventually(
    _ what: String, within seconds: Double = 60, details: @autoclosure () -> String = "",
    _ condition: () throws -> Bool
) async throws {
    let deadline = ContinuousClock.now + .seconds(seconds)
    while try !condition() {
        guard ContinuousClock.now < deadline else {
            throw NeverHappened(description: "this never happened: \(what)\n\(details())")
        }
        // Only the pause between two questions: nothing relies on its length.
        try await Task.sleep(for: .milliseconds(10))
    }
}

/// Asks until there is a value, and returns it. Otherwise like ``eventually(_:within:details:_:)``.
package func eventualValue<Value>(
    _ what: String, within seconds: Double = 60, details: @autoclosure () -> String = "", _ value: () throws -> Value?
) async throws -> Value {
    var found: Value?
    try await eventually(what, within: seconds, details: details()) {
        found = try value()
        return found != nil
    }
    guard let found else { throw NeverHappened(description: what) }
    return found
}
