// Ends by an exception that nobody catches; the argument names which.
#include <cstring>
#include <stdexcept>
#include <string>

namespace shop {
struct OutOfStock : std::runtime_error {
    explicit OutOfStock(const std::string &what) : std::runtime_error(what) {}
};
struct Plain {
    int code;
};
}

static char *volatile kept;

static void sell(const char *kind)
{
    if (!strcmp(kind, "derived"))
        throw shop::OutOfStock("no apples left");
    if (!strcmp(kind, "standard"))
        throw std::out_of_range("position 17 of 3");
    if (!strcmp(kind, "plain"))
        throw shop::Plain{42};
    if (!strcmp(kind, "integer"))
        throw 1234;
    if (!strcmp(kind, "literal"))
        throw "a text thrown as it is";
    if (!strcmp(kind, "string"))
        throw std::string("a string that is longer than sixteen bytes");
    if (!strcmp(kind, "allocation"))
        kept = new char[~0ul >> 2];
}

int main(int, char **words)
{
    sell(words[1]);
    return 0;
}
