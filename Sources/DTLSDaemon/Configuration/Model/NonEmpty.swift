import Primitives

/// An array with at least one element. Decoding refuses an empty one.
struct NonEmpty<Element> {
    let elements: [Element]

    /// - Returns: `nil` where there is no element.
    init?(_ elements: [Element]) {
        if elements.isEmpty { return nil }
        self.elements = elements
    }

    private init(atLeastOne elements: [Element]) { self.elements = elements }

    var first: Element { elements[0] }

    func map<Other>(_ convert: (Element) -> Other) -> NonEmpty<Other> {
        NonEmpty<Other>(atLeastOne: elements.map(convert))
    }
}

extension NonEmpty: Equatable where Element: Equatable {}
extension NonEmpty: Sendable where Element: Sendable {}

extension NonEmpty: Codable where Element: Codable {
    init(from decoder: any Decoder) throws {
        guard let value = Self(try [Element](from: decoder)) else { throw MalformedBytes() }
        self = value
    }

    func encode(to encoder: any Encoder) throws { try elements.encode(to: encoder) }
}
