//! Where a source can be mutated, and how.
//!
//! 1. A place is a whole expression, so places nest or lie apart, and each can be replaced by one in parentheses.
//! 2. What is compiled for tests alone, constant, a type, or inside a macro (mostly an assertion) is left alone; so is
//!    what is configured away where the tests run.

use proc_macro2::Span;
use std::cmp::Reverse;
use std::ops::Range;
use syn::spanned::Spanned;
use syn::visit::{self, Visit};
use syn::{Attribute, BinOp, Expr, ImplItem, Item, Lit, Meta, Pat, Token, UnOp};

/// An expression, and what in it can be swapped; each swap is a mutant. Positions are bytes.
#[derive(Debug)]
pub(crate) struct Place {
    /// The function that it is in.
    pub(crate) function: String,
    pub(crate) range: Range<usize>,
    pub(crate) swaps: Vec<Swap>,
}

/// What is replaced, and by what.
#[derive(Debug)]
pub(crate) struct Swap {
    pub(crate) at: Range<usize>,
    pub(crate) new: &'static str,
}

/// All places of a source, in order of where they start, the outer before the inner.
pub(crate) fn find(source: &str) -> syn::Result<Vec<Place>> {
    let mut finder = Finder::default();
    finder.visit_file(&syn::parse_file(source)?);
    finder.found.sort_by_key(|place| (place.range.start, Reverse(place.range.end)));
    Ok(finder.found)
}

#[derive(Default)]
struct Finder {
    function: String,
    found: Vec<Place>,
}

impl Finder {
    fn place(&mut self, whole: Span, at: Span, news: &[&'static str]) {
        let swaps = news.iter().map(|new| Swap { at: at.byte_range(), new }).collect();
        let function = self.function.clone();
        self.found.push(Place { function, range: whole.byte_range(), swaps });
    }

    /// A condition: a `!` in front of it, or of one of its parts, can be left out.
    fn condition(&mut self, expression: &Expr) {
        match expression {
            Expr::Paren(inner) => self.condition(&inner.expr),
            Expr::Unary(unary) => {
                if let UnOp::Not(not) = &unary.op
                    && !self.found.iter().any(|place| place.range == unary.span().byte_range())
                {
                    self.place(unary.span(), not.span(), &[""]);
                }
            }
            Expr::Binary(binary) if matches!(binary.op, BinOp::And(_) | BinOp::Or(_)) => {
                self.condition(&binary.left);
                self.condition(&binary.right);
            }
            _ => {}
        }
    }
}

impl<'ast> Visit<'ast> for Finder {
    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.function = signature.ident.to_string();
    }

    fn visit_item(&mut self, item: &'ast Item) {
        match item {
            Item::Fn(inner) if lives(&inner.attrs) => visit::visit_item(self, item),
            Item::Mod(inner) if lives(&inner.attrs) => visit::visit_item(self, item),
            Item::Impl(inner) if lives(&inner.attrs) => visit::visit_item(self, item),
            Item::Trait(inner) if lives(&inner.attrs) => visit::visit_item(self, item),
            _ => {}
        }
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if let ImplItem::Fn(inner) = item
            && lives(&inner.attrs)
        {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if lives(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if lives(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_pat(&mut self, pattern: &'ast Pat) {
        if let Pat::Guard(pattern) = pattern {
            self.condition(&pattern.guard);
            self.visit_expr(&pattern.guard);
        }
    }

    fn visit_expr(&mut self, expression: &'ast Expr) {
        let attributes = match expression {
            Expr::Block(inner) => &inner.attrs,
            Expr::Call(inner) => &inner.attrs,
            Expr::If(inner) => &inner.attrs,
            Expr::MethodCall(inner) => &inner.attrs,
            Expr::Unsafe(inner) => &inner.attrs,
            _ => &Vec::new(),
        };
        if lives(attributes) {
            visit::visit_expr(self, expression);
        }
    }

    fn visit_expr_if(&mut self, expression: &'ast syn::ExprIf) {
        self.condition(&expression.cond);
        visit::visit_expr_if(self, expression);
    }

    fn visit_expr_while(&mut self, expression: &'ast syn::ExprWhile) {
        self.condition(&expression.cond);
        visit::visit_expr_while(self, expression);
    }

    fn visit_expr_binary(&mut self, binary: &'ast syn::ExprBinary) {
        let (whole, at) = (binary.span(), binary.op.span());
        match &binary.op {
            BinOp::Lt(_) => self.place(whole, at, &["<=", ">="]),
            BinOp::Le(_) => self.place(whole, at, &["<", ">"]),
            BinOp::Gt(_) => self.place(whole, at, &[">=", "<="]),
            BinOp::Ge(_) => self.place(whole, at, &[">", "<"]),
            BinOp::Eq(_) => self.place(whole, at, &["!="]),
            BinOp::Ne(_) => self.place(whole, at, &["=="]),
            BinOp::And(_) | BinOp::Or(_) => {
                self.condition(&binary.left);
                self.condition(&binary.right);
                if !lets(&binary.left) && !lets(&binary.right) {
                    let or = matches!(binary.op, BinOp::Or(_));
                    self.place(whole, at, if or { &["&&"] } else { &["||"] });
                }
            }
            BinOp::Add(_) | BinOp::Sub(_) if is_one(&binary.right) => {
                self.place(whole, binary.right.span(), &["0"]);
            }
            _ => {}
        }
        visit::visit_expr_binary(self, binary);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        let new = match call.method.to_string().as_str() {
            "min" => Some("max"),
            "max" => Some("min"),
            "is_some" => Some("is_none"),
            "is_none" => Some("is_some"),
            _ => None,
        };
        if let Some(new) = new {
            self.place(call.span(), call.method.span(), &[new]);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_expr_return(&mut self, expression: &'ast syn::ExprReturn) {
        if let Some(value) = &expression.expr
            && let Expr::Lit(literal) = &**value
            && let Lit::Bool(literal) = &literal.lit
        {
            let new = if literal.value { "false" } else { "true" };
            self.place(expression.span(), literal.span(), &[new]);
        }
        visit::visit_expr_return(self, expression);
    }

    fn visit_expr_repeat(&mut self, repeated: &'ast syn::ExprRepeat) {
        self.visit_expr(&repeated.expr);
    }

    fn visit_expr_const(&mut self, _: &'ast syn::ExprConst) {}
    fn visit_type(&mut self, _: &'ast syn::Type) {}
    fn visit_generic_argument(&mut self, _: &'ast syn::GenericArgument) {}
    fn visit_generics(&mut self, _: &'ast syn::Generics) {}
    fn visit_trait_item_const(&mut self, _: &'ast syn::TraitItemConst) {}
    fn visit_macro(&mut self, _: &'ast syn::Macro) {}
    fn visit_attribute(&mut self, _: &'ast Attribute) {}
}

/// Whether it is a link of a chain that binds with `let`, which can be neither in parentheses nor with `||`.
fn lets(expression: &Expr) -> bool {
    match expression {
        Expr::Let(_) => true,
        Expr::Binary(binary) => lets(&binary.left) || lets(&binary.right),
        _ => false,
    }
}

fn is_one(expression: &Expr) -> bool {
    let Expr::Lit(literal) = expression else { return false };
    matches!(&literal.lit, Lit::Int(number) if number.base10_digits() == "1" && number.suffix().is_empty())
}

/// Whether what bears these attributes is compiled both for tests and without them, where the tests run.
fn lives(attributes: &[Attribute]) -> bool {
    attributes.iter().filter(|attribute| attribute.path().is_ident("cfg")).all(|attribute| {
        let holds = |test| attribute.parse_args().is_ok_and(|meta: Meta| holds(&meta, test));
        holds(false) && holds(true)
    })
}

fn holds(meta: &Meta, test: bool) -> bool {
    let inner = |list: &syn::MetaList| {
        list.parse_args_with(syn::punctuated::Punctuated::<Meta, Token![,]>::parse_terminated)
            .map(|metas| metas.iter().map(|meta| holds(meta, test)).collect::<Vec<_>>())
            .unwrap_or_default()
    };
    match meta {
        Meta::List(list) if list.path.is_ident("all") => inner(list).iter().all(|held| *held),
        Meta::List(list) if list.path.is_ident("any") => inner(list).iter().any(|held| *held),
        Meta::List(list) if list.path.is_ident("not") => !inner(list).iter().any(|held| *held),
        Meta::Path(path) => path.is_ident("test") && test,
        // A feature, or the system.
        Meta::NameValue(pair) => {
            let Expr::Lit(literal) = &pair.value else { return false };
            let Lit::Str(value) = &literal.lit else { return false };
            ["linux", "x86_64", "64", "test-util"].contains(&value.value().as_str())
        }
        Meta::List(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each swap as (what it replaces, by what), in order.
    fn swaps(source: &str) -> Vec<(String, &'static str)> {
        let found = find(source).expect("the source is Rust");
        let swaps = found.into_iter().flat_map(|place| place.swaps);
        swaps.map(|swap| (source[swap.at].to_owned(), swap.new)).collect()
    }

    #[test]
    fn every_kind_of_swap_is_found() {
        let one = |code: &str| {
            let found = swaps(&format!("fn f() {{ {code}; }}"));
            found.iter().map(|(old, new)| format!("{old} {new}")).collect::<Vec<_>>().join(", ")
        };
        assert_eq!(one("a < b"), "< <=, < >=");
        assert_eq!(one("a <= b"), "<= <, <= >");
        assert_eq!(one("a > b"), "> >=, > <=");
        assert_eq!(one("a >= b"), ">= >, >= <");
        assert_eq!(one("a == b"), "== !=");
        assert_eq!(one("a != b"), "!= ==");
        assert_eq!(one("a && b"), "&& ||");
        assert_eq!(one("a || b"), "|| &&");
        assert_eq!(one("a.min(b).max(c)"), "max min, min max");
        assert_eq!(one("a.is_some() == b.is_none()"), "== !=, is_some is_none, is_none is_some");
        assert_eq!(one("if !a {}"), "! ");
        assert_eq!(one("while !a {}"), "! ");
        assert_eq!(one("match a { b if !c => {} _ => {} }"), "! ");
        assert_eq!(one("let d = a && !(b || !c)"), "&& ||, ! , || &&, ! ");
        assert_eq!(one("return true"), "true false");
        assert_eq!(one("a + 1 - 1"), "1 0, 1 0");
        assert_eq!(one("a + 2; !a; a & !b"), "");
    }

    #[test]
    fn what_is_no_policy_is_left_alone() {
        for source in [
            "#[cfg(test)] mod tests { fn f() { a < b; } }",
            "#[cfg(all(test, not(any(phalanx_loom, phalanx_shuttle))))] fn f() { a < b; }",
            "impl A { #[cfg(test)] fn f() { a < b; } }",
            "#[cfg(not(test))] fn f() { a < b; }",
            "#[cfg(phalanx_loom)] fn f() { a < b; }",
            "#[cfg(target_os = \"macos\")] fn f() { a < b; }",
            "fn f() { #[cfg(test)] { a < b; } }",
            "fn f() { #[cfg(test)] let a = b < c; }",
            "const A: bool = 1 < 2;",
            "static A: bool = 1 < 2;",
            "fn f() { assert!(a < b); debug_assert!(a < b); matches!(a, b if b < c); }",
            "fn f() { const { a < b }; let _: [u8; A + 1] = [0; A + 1]; }",
            "/// a < b\n#[a(b < c)] fn f() {}",
        ] {
            assert_eq!(swaps(source), [], "{source}");
        }
        let lives =
            "#[cfg(not(any(phalanx_loom, phalanx_shuttle)))] #[cfg(target_os = \"linux\")] ";
        assert_eq!(swaps(&format!("{lives} fn f() {{ a == b; }}")).len(), 1);
    }

    #[test]
    fn a_chain_that_binds_keeps_its_links() {
        let found = swaps("fn f() { if a && b && let Some(c) = d && e && c.is_some() {} }");
        assert_eq!(found, [("&&".to_owned(), "||"), ("is_some".to_owned(), "is_none")]);
    }
}
