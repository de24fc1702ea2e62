// The guest side of the sandboxed parser: one tree-sitter grammar behind a small ABI.
//
// The host owns the memory (it is imported, so that the host sets its limit) and calls:
//
//   guest_abi()                      the version of this interface
//   guest_reset()                    forgets everything allocated; the next call starts from a clean heap
//   guest_alloc(len)                 room for the source
//   guest_tables()                   writes the names of the grammar to the output
//   guest_parse(ptr, len, max_nodes, max_depth)
//                                    parses and writes the tree to the output
//   guest_output(), guest_output_len()
//                                    where the output of the last successful call lies
//
// and is called: should_stop(), which ends a parse when it answers other than zero, and
// out_of_memory(wanted), which does not return.
//
// Nothing here recurses, so the depth of a tree costs heap, which is bounded, and never stack.
// Whatever this code answers, the host checks: see `../decode.rs`.

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "tree_sitter/api.h"

#define EXPORT(name) __attribute__((export_name(name)))
#define IMPORT(name) __attribute__((import_module("phalanx"), import_name(name)))

enum { ABI_VERSION = 1 };
enum { OK = 0, STOPPED = 1, TOO_MANY_NODES = 2, TOO_DEEP = 3, FAILED = 4 };
enum { NAMED = 1, ERROR = 2, MISSING = 4, EXTRA = 8, HAS_ERROR = 16 };

IMPORT("should_stop") int32_t should_stop(void);
IMPORT("out_of_memory") _Noreturn void out_of_memory(uint32_t wanted);

const TSLanguage *GRAMMAR(void);

// ---- allocation ---------------------------------------------------------------------------------
//
// A bump pointer over the memory, with a free list for each size class. Classes step by a quarter of
// a power of two, so a block wastes a fifth of itself at most. Blocks are never split or joined: the
// heap lives for one document and is then forgotten as a whole.

extern unsigned char __heap_base;

typedef struct Block {
  uint32_t class;
  uint32_t room;
  struct Block *next; // only while free
} Block;

enum { HEADER = 8, PAGE = 65536, CLASSES = 128 };

static uintptr_t heap_top;
static Block *free_lists[CLASSES];

static uint32_t class_of(uint32_t size, uint32_t *room) {
  if (size < 16) size = 16;
  uint32_t shift = 29 - (uint32_t)__builtin_clz(size - 1); // a step: a quarter of the power below
  uint32_t step = 1u << shift;
  *room = (size + step - 1) & ~(step - 1);
  return shift * 4 + (*room >> shift) % 4;
}

static void reserve(uint32_t wanted) {
  uintptr_t end = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE;
  if (wanted <= end - heap_top) return;
  uint32_t pages = (wanted - (uint32_t)(end - heap_top)) / PAGE + 1;
  uint32_t ahead = (uint32_t)(end / PAGE / 4);
  if (ahead > pages && __builtin_wasm_memory_grow(0, ahead) != (uint32_t)-1) return;
  if (__builtin_wasm_memory_grow(0, pages) == (uint32_t)-1) out_of_memory(wanted);
}

void *malloc(size_t size) {
  if (size > 0x60000000) out_of_memory(size);
  uint32_t room;
  uint32_t class = class_of((uint32_t)size, &room);
  Block *block = free_lists[class];
  if (block) {
    free_lists[class] = block->next;
    return (char *)block + HEADER;
  }
  if (!heap_top) heap_top = ((uintptr_t)&__heap_base + 15) & ~(uintptr_t)15;
  room = (room + HEADER + 7) & ~7u;
  reserve(room);
  block = (Block *)heap_top;
  heap_top += room;
  block->class = class;
  block->room = room - HEADER;
  return (char *)block + HEADER;
}

void free(void *pointer) {
  if (!pointer) return;
  Block *block = (Block *)((char *)pointer - HEADER);
  block->next = free_lists[block->class];
  free_lists[block->class] = block;
}

void *calloc(size_t count, size_t size) {
  uint64_t total = (uint64_t)count * size;
  if (total > 0x60000000) out_of_memory((uint32_t)-1);
  void *pointer = malloc((size_t)total);
  memset(pointer, 0, (size_t)total);
  return pointer;
}

void *realloc(void *pointer, size_t size) {
  if (!pointer) return malloc(size);
  Block *block = (Block *)((char *)pointer - HEADER);
  if (size <= block->room) return pointer;
  void *moved = malloc(size);
  memcpy(moved, pointer, block->room);
  free(pointer);
  return moved;
}

void abort(void) { __builtin_trap(); }

// ---- output -------------------------------------------------------------------------------------

static unsigned char *output;
static uint32_t output_len, output_room;

static unsigned char *output_grow(uint32_t by) {
  if (by > output_room - output_len) {
    uint32_t room = output_room / 2 * 3 + by;
    output = realloc(output, room);
    output_room = room;
  }
  unsigned char *at = output + output_len;
  output_len += by;
  return at;
}

static void put_name(const char *name, uint8_t type) {
  uint32_t len = name ? (uint32_t)strlen(name) : 0;
  if (len > 65535) len = 65535;
  unsigned char *at = output_grow(3 + len);
  at[0] = type;
  at[1] = (unsigned char)len;
  at[2] = (unsigned char)(len >> 8);
  memcpy(at + 3, name, len);
}

EXPORT("guest_abi") uint32_t guest_abi(void) { return ABI_VERSION; }
EXPORT("guest_output") unsigned char *guest_output(void) { return output; }
EXPORT("guest_output_len") uint32_t guest_output_len(void) { return output_len; }
EXPORT("guest_alloc") void *guest_alloc(uint32_t len) { return malloc(len); }

EXPORT("guest_reset") void guest_reset(void) {
  heap_top = 0;
  memset(free_lists, 0, sizeof free_lists);
  output = NULL;
  output_len = output_room = 0;
}

// u32 count of kinds, u32 count of fields, then for each (u8 type, u16 length, bytes). The last kind
// is the one of error nodes, whose number inside tree-sitter lies far outside its table.
EXPORT("guest_tables") int32_t guest_tables(void) {
  const TSLanguage *language = GRAMMAR();
  uint32_t kinds = ts_language_symbol_count(language);
  uint32_t fields = ts_language_field_count(language);
  if (kinds > 65000 || fields > 65000) return FAILED;
  output_len = 0;
  uint32_t counts[2] = {kinds + 1, fields};
  memcpy(output_grow(8), counts, 8);
  for (uint32_t i = 0; i < kinds; i++) {
    put_name(ts_language_symbol_name(language, (TSSymbol)i), (uint8_t)ts_language_symbol_type(language, (TSSymbol)i));
  }
  put_name("ERROR", TSSymbolTypeRegular);
  for (uint32_t i = 1; i <= fields; i++) {
    put_name(ts_language_field_name_for_id(language, (TSFieldId)i), 0);
  }
  return OK;
}

// ---- parsing ------------------------------------------------------------------------------------

typedef struct {
  uint16_t kind, field;
  uint32_t flags, start, end, descendants;
} Record;

_Static_assert(sizeof(Record) == 20, "the host reads records of 20 bytes");

typedef struct {
  const char *bytes;
  uint32_t len;
} Text;

static const char *read_text(void *payload, uint32_t at, TSPoint point, uint32_t *len) {
  (void)point;
  const Text *text = payload;
  *len = at < text->len ? text->len - at : 0;
  return *len ? text->bytes + at : "";
}

static bool on_progress(TSParseState *state) {
  (void)state;
  return should_stop() != 0;
}

static int32_t write_tree(TSNode root, uint32_t error_kind, uint32_t max_nodes, uint32_t max_depth) {
  uint32_t expected = ts_node_descendant_count(root);
  if (expected > max_nodes) return TOO_MANY_NODES;
  output_room = expected * (uint32_t)sizeof(Record) + (uint32_t)sizeof(Record);
  output = malloc(output_room);
  output_len = 0;

  // The records that are open, by number: the path from the root to the cursor.
  uint32_t depth = 0, path_room = 256, count = 0;
  uint32_t *path = malloc(path_room * sizeof *path);
  TSTreeCursor cursor = ts_tree_cursor_new(root);
  for (;;) {
    if (count >= max_nodes) return TOO_MANY_NODES;
    if (depth >= max_depth) return TOO_DEEP;
    if (count % 4096 == 4095 && should_stop()) return STOPPED;
    TSNode node = ts_tree_cursor_current_node(&cursor);
    bool is_error = ts_node_is_error(node);
    Record record = {
      .kind = (uint16_t)(is_error ? error_kind : ts_node_symbol(node)),
      .field = ts_tree_cursor_current_field_id(&cursor),
      .flags = (ts_node_is_named(node) ? NAMED : 0) | (is_error ? ERROR : 0) |
               (ts_node_is_missing(node) ? MISSING : 0) | (ts_node_is_extra(node) ? EXTRA : 0) |
               (ts_node_has_error(node) ? HAS_ERROR : 0),
      .start = ts_node_start_byte(node),
      .end = ts_node_end_byte(node),
    };
    memcpy(output_grow(sizeof record), &record, sizeof record);
    uint32_t number = count++;
    if (ts_tree_cursor_goto_first_child(&cursor)) {
      if (depth == path_room) {
        path_room *= 2;
        path = realloc(path, path_room * sizeof *path);
      }
      path[depth++] = number;
      continue;
    }
    while (!ts_tree_cursor_goto_next_sibling(&cursor)) {
      if (!ts_tree_cursor_goto_parent(&cursor)) return OK;
      uint32_t closed = path[--depth];
      ((Record *)output)[closed].descendants = count - closed - 1;
    }
  }
}

EXPORT("guest_parse")
int32_t guest_parse(const char *bytes, uint32_t len, uint32_t max_nodes, uint32_t max_depth) {
  const TSLanguage *language = GRAMMAR();
  TSParser *parser = ts_parser_new();
  if (!ts_parser_set_language(parser, language)) return FAILED;
  Text text = {bytes, len};
  TSInput input = {.payload = &text, .read = read_text, .encoding = TSInputEncodingUTF8};
  TSParseOptions options = {.progress_callback = on_progress};
  TSTree *tree = ts_parser_parse_with_options(parser, NULL, input, options);
  if (!tree) return STOPPED;
  return write_tree(ts_tree_root_node(tree), ts_language_symbol_count(language), max_nodes, max_depth);
  // Parser and tree are left where they are: guest_reset forgets the whole heap.
}
