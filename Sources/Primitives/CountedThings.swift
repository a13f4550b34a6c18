/// A number and what it counts, for logs and messages: "1 connection", "2 connections".
/// - Parameter many: the plural where it is not the singular with an "s".
package func counted(_ number: some BinaryInteger, _ one: String, _ many: String? = nil) -> String {
    "\(number) \(number == 1 ? one : many ?? one + "s")"
}
